"""What a model writes after prompts (layer L1): one batch greedily, or many texts drawn by seeds of their own."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList

from clora_cli.base.errors import CloraError, translated
from clora_cli.data import Collator, Example, encode_prompt
from clora_cli.model.backbone import Backbone
from clora_cli.model.conventions import (
    first_position,
    keeps_rows_apart,
    neutral_generation,
    pads_left,
    token_positions,
)
from clora_cli.model.drawing import Draw, Drawing
from clora_cli.model.output_layer import check_numbers, no_numbers, not_finite
from clora_cli.model.prefix import Beginning

__all__ = ["continued", "greedy", "until", "write"]


def greedy(backbone: Backbone, max_new_tokens: int, *, chat: bool = False) -> Any:
    """Return the generation configuration of greedy answers.

    Args:
        backbone: The model.
        max_new_tokens: Tokens of an answer at most.
        chat: Whether the prompts went through the tokenizer's chat template.
    """
    tokens = backbone.tokens
    start = {"decoder_start_token_id": tokens.start} if backbone.kind == "seq2seq" else {}
    search = {"max_new_tokens": max_new_tokens, "do_sample": False, "num_beams": 1}
    ends = {"eos_token_id": sorted(tokens.ends(chat=chat))}
    return neutral_generation(tokens, **search, **ends, **start, use_cache=keeps_rows_apart(backbone.model))


def continued(
    backbone: Backbone,
    batch: Mapping[str, Tensor],
    config: Any,
    begun: Beginning | None = None,
    *,
    drawing: Drawing | None = None,
    spoiled: Callable[[int, CloraError], None] | None = None,
    **watching: Any,
) -> list[list[int]]:
    """Return the tokens that a model gives one batch of prompts, padding included.

    Args:
        backbone: The model.
        batch: Padded prompts, those of causal models on the left.
        config: From ``greedy``.
        begun: What all prompts begin with, where the model has read it and the batch lacks it.
        drawing: How tokens are chosen; without it, the likeliest.
        spoiled: Told of each row for which the model computes values that are no numbers; the others go on.
        watching: ``stopping_criteria`` of Transformers' ``generate``.

    Raises:
        CloraError: The model cannot generate, or computes values that are no numbers and nobody is told of rows.
    """
    first = first_position(backbone.model) if backbone.kind == "causal" else 0
    inputs = dict(batch) if begun is None else begun.before(batch, backbone.sharing.positions)
    if first and begun is None:  # Transformers itself counts from 0
        inputs["position_ids"] = token_positions(batch["attention_mask"], first)
    numbers = _Numbers(backbone.tokens.model, spoiled)
    processors = LogitsProcessorList([numbers, *([drawing] if drawing else [])])
    with translated(f"{backbone.tokens.model} cannot generate", CloraError, code="generation-failed"):
        output = backbone.model.generate(**inputs, generation_config=config, logits_processor=processors, **watching)
    given = 1 if backbone.kind == "seq2seq" else batch["input_ids"].shape[1]
    return output[:, given:].tolist()  # type: ignore[no-any-return]


class _Numbers(LogitsProcessor):  # type: ignore[misc]
    """Lets scores through as they are, if they are numbers; else rows of zeros, if somebody is told of them."""

    def __init__(self, model: str, spoiled: Callable[[int, CloraError], None] | None) -> None:
        self._model, self._spoiled = model, spoiled

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        if self._spoiled is None:
            check_numbers(scores.amax(dim=-1), self._model)
            return scores
        odd = no_numbers(scores.amax(dim=-1))
        for row in odd.nonzero().flatten().tolist():
            self._spoiled(row, not_finite(self._model))
        return scores.masked_fill(odd[:, None], 0.0)


def until(ids: list[int], ends: Collection[int]) -> list[int]:
    """Return the tokens before the first that ends an answer."""
    return ids[: next((place for place, token in enumerate(ids) if token in ends), len(ids))]


@torch.no_grad()
def write(  # noqa: PLR0913 (what a pass is given, and how its tokens are chosen)
    backbone: Backbone,
    prompts: Sequence[Example],
    draws: Sequence[Draw],
    *,
    most: int,
    max_length: int,
    batch_size: int,
    chat: bool = False,
    before: Sequence[int] = (),
    done: Callable[[int], None] = lambda rows: None,
) -> list[str]:
    """Return what the model, with the adapters that act in it, writes after each prompt.

    Args:
        backbone: The model, in evaluation mode.
        prompts: The prompts.
        draws: How the tokens of each are chosen.
        most: Tokens of a text at most, its end included.
        max_length: Tokens of a prompt at most.
        batch_size: Prompts of one forward pass.
        chat: Whether to use the tokenizer's chat template.
        before: Tokens that stand before every prompt, such as virtual ones.
        done: Told the number of prompts after each batch.

    Raises:
        CloraError: The model cannot generate, or a prompt does not fit.
    """
    tokens, causal = backbone.tokens, backbone.kind == "causal"
    room = tokens.most_answer(most, causal=causal)
    limit = tokens.most(max_length, room) if causal else max_length
    kind = backbone.prompt_kind
    ids = [[*before, *encode_prompt(row, tokens, kind=kind, max_length=limit, chat=chat)] for row in prompts]
    config, ends = greedy(backbone, room, chat=chat), tokens.ends(chat=chat)
    collate = Collator(tokens, side="left" if causal else "right")
    found = [""] * len(ids)
    for rows in _batches(ids, batch_size, alike=causal and not pads_left(backbone.model)):
        batch = {
            key: value.to(backbone.device) for key, value in collate([{"input_ids": ids[r]} for r in rows]).items()
        }
        drawing = Drawing([draws[row] for row in rows])
        written = [until(one, ends) for one in continued(backbone, batch, config, drawing=drawing)]
        for row, text in zip(rows, backbone.tokenizer.batch_decode(written, skip_special_tokens=True), strict=True):
            found[row] = text.strip()
        done(len(rows))
    return found


def _batches(ids: Sequence[list[int]], size: int, *, alike: bool) -> Iterator[list[int]]:
    """Yield the numbers of prompts that go together, the longest first; where they must not be padded, of one length each."""
    order = sorted(range(len(ids)), key=lambda row: (-len(ids[row]), row))
    groups = [list(rows) for _, rows in groupby(order, key=lambda row: len(ids[row]))] if alike else [order]
    for rows in groups:
        yield from (rows[start : start + size] for start in range(0, len(rows), size))
