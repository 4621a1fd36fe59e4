"""Encoded prompts of a task, in batches (layer L3)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from clora_cli.base.errors import MismatchError, translated
from clora_cli.data import Collator, Example, Task, Tokens, encode_answers, encode_prompt, uses_chat
from clora_cli.data.encode import Kind
from clora_cli.model.backbone import Backbone
from clora_cli.model.conventions import pads_left
from clora_cli.model.prefix import Beginning
from clora_cli.model.soft_prompts import check_room
from clora_cli.processes.ranks import processes, rounds

__all__ = ["Before", "Prompts", "pass_cost"]

# What a forward pass costs beside its positions, in positions: on a CPU, and where small passes leave most of a device idle.
_PASS_COST, _PASS_COST_ELSEWHERE = 32, 1024
# Told the rows of a batch and their attention mask, (row, token), before the model sees them.
Before = Callable[[list[int], Tensor], None]


def pass_cost(device: torch.device) -> int:
    """Return what a forward pass costs beside its positions, in positions."""
    return _PASS_COST if device.type == "cpu" else _PASS_COST_ELSEWHERE


@dataclass(frozen=True, eq=False)
class Prompts:
    """Encoded prompts of one task, longest first in batches, so that little is padded and memory is known at once.

    Attributes:
        backbone: The model they are for.
        examples: The rows.
        ids: Their prompt tokens.
        labels: The label set's tokens, end of sequence included; empty for open-ended tasks, and for an encoder, which writes none.
            Where prompts end in different ways, those after the first one: see ``by_labels``.
        batch_size: Rows of one forward pass.
        chat: Whether they went through the tokenizer's chat template.
        room: Tokens that an answer may have, its end included.
        classes: Task and label of each class that an encoder chooses among under the adapters that act.
        own: The label set's tokens after each prompt.
    """

    backbone: Backbone
    examples: Sequence[Example]
    ids: Sequence[list[int]]
    labels: Sequence[list[int]]
    batch_size: int
    chat: bool = False
    room: int = 1
    classes: Sequence[tuple[str, str]] = ()
    own: Sequence[Sequence[list[int]]] = ()

    @classmethod
    def encode(
        cls,
        backbone: Backbone,
        task: Task,
        examples: Sequence[Example],
        max_length: int,
        batch_size: int,
        max_new_tokens: int = 50,
    ) -> Prompts:
        """Tokenise rows of one task.

        Answers from a label set may be one token longer than the longest label: enough to see that one went on and is
        none of the labels. Where the model's positions end, prompts leave room for an answer.
        """
        tokens, kind = backbone.tokens, backbone.prompt_kind
        chat = uses_chat(task, tokens)
        writes = backbone.kind != "encoder"
        own = _labels(examples, task.labels, tokens, kind, chat) if writes and task.labels else []
        room = 1 + max(len(ids) for labels in own for ids in labels) if own else max_new_tokens
        if kind == "causal":
            max_length = tokens.most(max_length, room)
        ids = [encode_prompt(row, tokens, kind=kind, max_length=max_length, chat=chat) for row in examples]
        limit = tokens.answer_positions
        if kind == "causal" and tokens.positions is not None:
            limit = tokens.positions - max(map(len, ids))
        room, labels = room if limit is None else min(room, limit), own[0] if own else []
        return cls(backbone, examples, ids, labels, batch_size, chat, room, own=own)

    def after(self, beginnings: Sequence[list[int]]) -> Prompts:
        """Return the prompts with tokens before each of them, which count as none of its own.

        Args:
            beginnings: The tokens for each row.

        Raises:
            MismatchError: If the model's positions leave no room for an answer.
        """
        ids = [[*before, *own] for before, own in zip(beginnings, self.ids, strict=True)]
        positions, longest = self.backbone.tokens.positions, max(map(len, ids))
        causal = self.backbone.kind == "causal"
        check_room(self.backbone.tokens, longest + causal)
        room = self.room if positions is None or not causal else min(self.room, positions - longest)
        return dataclasses.replace(self, ids=ids, room=room)

    def remarks(self, max_length: int) -> list[str]:
        """Return what people should know about the prompts' lengths, of which ``max_length`` was asked for."""
        room = self.room if self.backbone.kind == "causal" else 0
        return self.backbone.tokens.remarks(max_length, max(map(len, self.ids)), room)

    def begin(self, more: int) -> Beginning | None:
        """Let a causal model read once what all prompts begin with, under the adapters that act; None if it is to read them whole.

        Args:
            more: How many tokens come after a prompt at most.
        """
        with translated(
            f"{self.backbone.tokens.model} cannot read the prompts", MismatchError, code="prompts-unreadable"
        ):
            # Processes that divide the model must make the same passes, whatever their batches are.
            shared = self.backbone.kind == "causal" and not self.backbone.sharded
            return self.backbone.sharing.begin(self.ids, more) if shared else None

    def batches(self, begun: Beginning | None = None, passes: int = 1) -> Iterator[tuple[list[int], dict[str, Tensor]]]:
        """Yield row numbers and padded tensors, (batch, length), causal prompts padded on the left.

        Batches are as large as they may be, but for a row so much shorter that padding it would cost more than passes of its own.

        Prompts of models that read what stands before a text come in batches of one length, without padding. Processes that
        have met get a share of the batches each; where none can run the model without the others, one that has no batch left gets
        another's too.

        Args:
            begun: What all prompts begin with and has been read, which is left out.
            passes: Forward passes that a batch takes at most.
        """
        start = len(begun.ids) if begun else 0
        collate = Collator(self.backbone.tokens, side="left" if self.backbone.kind == "causal" else "right")
        for rows, _ in rounds(self._numbers(passes * pass_cost(self.backbone.device)), equal=self.backbone.sharded):
            batch = collate([{"input_ids": self.ids[row][start:]} for row in rows])
            yield rows, {key: value.to(self.backbone.device) for key, value in batch.items()}

    def in_rounds(self) -> Iterator[tuple[list[int], Prompts]]:
        """Yield the prompts in parts of one batch for each process, with the numbers of their rows.

        The batches of all parts together are those of ``batches``, however many processes there are.
        """
        batches = self._numbers(pass_cost(self.backbone.device))
        for start in range(0, len(batches), processes()):
            rows = [row for batch in batches[start : start + processes()] for row in batch]
            yield rows, self._part(rows)

    def by_labels(self) -> Iterator[tuple[list[int], Prompts]]:
        """Yield the prompts in parts after which the labels are the same tokens, with the numbers of their rows."""
        groups: dict[tuple[tuple[int, ...], ...], list[int]] = {}
        if not self.own:
            yield list(range(len(self.ids))), self
        for row, labels in enumerate(self.own):
            groups.setdefault(tuple(map(tuple, labels)), []).append(row)
        for rows in groups.values():
            yield rows, dataclasses.replace(self._part(rows), labels=self.own[rows[0]])

    def _part(self, rows: Sequence[int]) -> Prompts:
        examples, ids = [self.examples[row] for row in rows], [self.ids[row] for row in rows]
        own = [self.own[row] for row in rows] if self.own else ()
        return dataclasses.replace(self, examples=examples, ids=ids, own=own)

    def _numbers(self, pass_cost: int) -> list[list[int]]:
        """Return the batches' rows, the longest first, for the fewest positions with what each batch costs besides."""
        alike = self.backbone.kind == "causal" and not pads_left(self.backbone.model)
        order = sorted(range(len(self.ids)), key=lambda row: (-len(self.ids[row]), row))
        lengths = [len(self.ids[row]) for row in order]
        # Of the first so many rows: what they cost, and where their last batch starts.
        best: list[tuple[int, int]] = [(0, 0)]
        for stop in range(1, len(order) + 1):
            starts = range(max(0, stop - self.batch_size), stop)
            fitting = [start for start in starts if not alike or lengths[start] == lengths[stop - 1]]
            best.append(min((best[one][0] + (stop - one) * lengths[one] + pass_cost, one) for one in fitting))
        batches, stop = [], len(order)
        while stop:
            batches.append(order[best[stop][1] : stop])
            stop = best[stop][1]
        return batches[::-1]


def _labels(
    examples: Sequence[Example], labels: Sequence[str], tokens: Tokens, kind: Kind, chat: bool
) -> list[list[list[int]]]:
    """Return the label set's tokens after each prompt.

    They depend on how it ends: no space stands before an answer where one ends the prompt. Prompts of one cue end alike, and so do
    those of a chat template.
    """
    known: dict[str, list[list[int]]] = {}
    found = []
    for row in examples:
        ending = "" if chat or kind == "seq2seq" else row.cue or row.prompt
        if ending not in known:
            known[ending] = encode_answers(row, labels, tokens, kind=kind, chat=chat)
        found.append(known[ending])
    return found
