"""From prompts that have been placed to answers (layer L3): groups that one forward pass may take, and their passes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor
from transformers import StoppingCriteriaList

from clora_cli.base.errors import DataError
from clora_cli.data import encode_prompt
from clora_cli.evaluation.prompts import Prompts
from clora_cli.model.backbone import Backbone
from clora_cli.model.drawing import Drawing
from clora_cli.model.generation import continued, greedy
from clora_cli.serving.asked import Asked, Choice, Decoding
from clora_cli.serving.chooser import Placed
from clora_cli.serving.held import Held
from clora_cli.serving.unfolding import Row, Unfolding
from clora_cli.serving.verdict import Verdict

__all__ = ["Ready", "Where", "answer_group", "encoded", "groups"]


@dataclass(frozen=True, eq=False)
class Ready:
    """A prompt as it goes into the model.

    Attributes:
        asked: The prompt.
        choice: Which adapters answer.
        ids: Its tokens.
        chat: Whether they went through the tokenizer's chat template.
        within: Whether the forward pass that answers decides.
        beside: Whether it does so by a copy of the prompt.
        decoding: How it is answered, with the room that the model has; None if it is not.
    """

    asked: Asked
    choice: Choice
    ids: list[int]
    chat: bool
    within: bool
    decoding: Decoding | None
    beside: bool = False


@dataclass(frozen=True, eq=False)
class Where:
    """A prompt's place among those that were placed together."""

    placed: Placed
    row: int

    @property
    def verdict(self) -> Verdict:
        """What was decided."""
        return self.placed.verdicts[self.row]


def encoded(backbone: Backbone, asked: Asked, choice: Choice, max_length: int, *, within: bool) -> Ready:
    """Tokenise a prompt, exactly as ``clora eval`` would.

    Args:
        backbone: The base model.
        asked: The prompt.
        choice: Which adapters answer.
        max_length: Tokens at most.
        within: See ``Ready``.

    Raises:
        DataError: If the prompt is longer than that or than the model's positions, or cannot be tokenised.
    """
    tokens, kind = backbone.tokens, backbone.prompt_kind
    chat = asked.input.chat and tokens.chat
    ids = encode_prompt(asked.input.example, tokens, kind=kind, max_length=None, chat=chat)
    if asked.decoding is None:
        return Ready(asked, choice, ids, chat, within, None)
    most = tokens.most(max_length, 1 if kind == "causal" else 0)
    if len(ids) > most:
        raise DataError(
            f"{asked.input.where}: the prompt has {len(ids)} tokens, and at most {most} are served; shorten it, or start the "
            "server with a larger --max-length",
            code="prompt-too-long",
        )
    left = tokens.positions - len(ids) if kind == "causal" and tokens.positions is not None else tokens.answer_positions
    room = asked.decoding.max_new_tokens if left is None else min(left, asked.decoding.max_new_tokens)
    return Ready(asked, choice, ids, chat, within, _limited(asked.decoding, room))


def _limited(decoding: Decoding, room: int) -> Decoding:
    return Decoding(room, decoding.temperature, decoding.top_p, decoding.seed, decoding.stop)


def groups(ready: Sequence[Ready], positions: int | None, size: int) -> Iterator[list[Ready]]:
    """Yield prompts that may go through the model together.

    Conversations end otherwise than plain prompts. Where the model's positions end, no answer may be shorter for the length of
    another prompt in its batch.

    Args:
        ready: To be answered.
        positions: Of a causal model whose positions end; None for others.
        size: Prompts of a group at most.
    """
    kinds = sorted(ready, key=lambda one: (one.chat, one.within))
    for _, alike in groupby(kinds, key=lambda one: (one.chat, one.within)):
        group: list[Ready] = []
        for one in alike:
            longer = [*group, one]
            if len(longer) > size or (positions is not None and _width(longer) > positions and group):
                yield group
                longer = [one]
            group = longer
        yield group


def _width(group: Sequence[Ready]) -> int:
    return max(len(one.ids) for one in group) + max(one.decoding.max_new_tokens for one in group if one.decoding)


@torch.inference_mode()
def answer_group(backbone: Backbone, held: Held, group: Sequence[Ready], placed: Mapping[Ready, Where]) -> None:
    """Answer prompts of one group; each listener is told its own answer, part by part.

    Raises:
        CloraError: If the model cannot generate.
        ReplacedError: If an adapter was replaced before it was read; then nobody has been told anything.
    """
    examples = [one.asked.input.example for one in group]
    prompts = Prompts(backbone, examples, [one.ids for one in group], [], len(group), group[0].chat)
    for numbers, batch in prompts.batches():
        chosen = [group[number] for number in numbers]
        _answer_batch(held, prompts, chosen, batch, placed)


def _answer_batch(
    held: Held, prompts: Prompts, chosen: Sequence[Ready], batch: dict[str, Tensor], placed: Mapping[Ready, Where]
) -> None:
    tokens, tokenizer = prompts.backbone.tokens, prompts.backbone.tokenizer
    ends = set(tokens.ends(chat=prompts.chat))
    rows = [
        Row(
            one.asked,
            one.decoding,
            len(one.ids),
            ends,
            lambda ids: str(tokenizer.decode(ids, skip_special_tokens=True)),
        )
        for one in chosen
        if one.decoding is not None
    ]
    deciding = _decided(held, chosen, batch["attention_mask"], placed)
    unfolding = Unfolding(rows, deciding.tell)
    backbone = prompts.backbone
    config = greedy(backbone, max(row.decoding.max_new_tokens for row in rows), chat=prompts.chat)
    watching = {"stopping_criteria": StoppingCriteriaList([unfolding])}
    drawing = Drawing([row.decoding.draw for row in rows])
    with deciding.around:
        # What one request asks for, such as an adapter of a large scale, ends no answer but its own.
        continued(
            backbone, batch, config, drawing=drawing, spoiled=lambda row, error: rows[row].fail(error), **watching
        )


@dataclass(frozen=True, eq=False)
class _Deciding:
    """How a batch's adapters are weighed: what tells of it after the first pass, and what is around the passes."""

    tell: Callable[[], None]
    around: contextlib.AbstractContextManager[None]


def _decided(held: Held, chosen: Sequence[Ready], mask: Tensor, placed: Mapping[Ready, Where]) -> _Deciding:
    """Weigh the adapters for a batch, or see to it that its first pass does; tell of what is decided already."""
    if chosen[0].within:
        found = held.place_within(mask)
        return _Deciding(lambda: _tell(chosen, found().verdicts), contextlib.nullcontext())
    before = [one for one in chosen if one in placed]
    beside = [row for row, one in enumerate(chosen) if one not in placed]
    if not beside:
        held.mixed.use(_weights([placed[one] for one in chosen]))
        _tell(chosen, [placed[one].verdict for one in chosen])
        return _Deciding(lambda: None, contextlib.nullcontext())
    others = _spread(_weights([placed[one] for one in before]) if before else held.nobody, chosen, placed)
    late = [chosen[row] for row in beside]
    told, around = held.place_beside(others, beside, [one.asked.input for one in late], mask)
    _tell(before, [placed[one].verdict for one in before])
    return _Deciding(lambda: _tell(late, told().verdicts), around)


def _spread(weights: Mapping[str, Tensor], chosen: Sequence[Ready], placed: Mapping[Ready, Where]) -> dict[str, Tensor]:
    """Return weights of those that were placed as weights of a whole batch, in which the others have none."""
    rows = [row for row, one in enumerate(chosen) if one in placed]
    spread = {site: one.new_zeros(len(chosen), one.shape[1]) for site, one in weights.items()}
    for site, one in weights.items():
        spread[site][rows] = one
    return spread


def _tell(chosen: Sequence[Ready], verdicts: Sequence[Verdict]) -> None:
    for one, verdict in zip(chosen, verdicts, strict=True):
        one.asked.listener.decided(verdict)


def _weights(where: Sequence[Where]) -> dict[str, Tensor]:
    """Return the weights of prompts that may have been placed in different batches, by deciding site."""
    sites = max((one.placed.weights for one in where), key=len)
    return {site: torch.stack([_row(one, site) for one in where]) for site in sites}


def _row(where: Where, site: str) -> Tensor:
    weights = where.placed.weights
    return (weights[site] if site in weights else next(iter(weights.values())))[where.row]
