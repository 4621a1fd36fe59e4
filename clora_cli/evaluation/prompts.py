"""Encoded prompts of a task, in batches (layer L3)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor

from clora_cli.data import Collator, Example, Task, encode_answers, encode_prompt, uses_chat
from clora_cli.model.backbone import Backbone
from clora_cli.model.conventions import pads_left
from clora_cli.processes.ranks import rounds

__all__ = ["Before", "Prompts"]

# Told the rows of a batch and their attention mask, (row, token), before the model sees them.
Before = Callable[[list[int], Tensor], None]


@dataclass(frozen=True, eq=False)
class Prompts:
    """Encoded prompts of one task, longest first in batches, so that little is padded and memory is known at once.

    Attributes:
        backbone: The model they are for.
        examples: The rows.
        ids: Their prompt tokens.
        labels: The label set's tokens, end of sequence included; empty for open-ended tasks.
        batch_size: Rows of one forward pass.
        chat: Whether they went through the tokenizer's chat template.
        room: Tokens that an answer may have, its end included.
    """

    backbone: Backbone
    examples: Sequence[Example]
    ids: Sequence[list[int]]
    labels: Sequence[list[int]]
    batch_size: int
    chat: bool = False
    room: int = 1

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
        """Tokenise rows of one task. Labels follow the same cue in every row, so one row's tokens serve for all.

        Answers from a label set may be one token longer than the longest label: enough to see that one went on and is
        none of the labels. Where the model's positions end, prompts leave room for an answer.
        """
        tokens, kind = backbone.tokens, backbone.prompt_kind
        chat = uses_chat(task, tokens)
        labels = encode_answers(examples[0], task.labels, tokens, kind=kind, chat=chat)
        room = 1 + max(map(len, labels)) if labels else max_new_tokens
        if kind == "causal":
            max_length = tokens.most(max_length, room)
        ids = [encode_prompt(row, tokens, kind=kind, max_length=max_length, chat=chat) for row in examples]
        limit = tokens.answer_positions
        if kind == "causal" and tokens.positions is not None:
            limit = tokens.positions - max(map(len, ids))
        return cls(backbone, examples, ids, labels, batch_size, chat, room if limit is None else min(room, limit))

    def remarks(self, max_length: int) -> list[str]:
        """Return what people should know about the prompts' lengths, of which ``max_length`` was asked for."""
        room = self.room if self.backbone.kind == "causal" else 0
        return self.backbone.tokens.remarks(max_length, max(map(len, self.ids)), room)

    def batches(self) -> Iterator[tuple[list[int], dict[str, Tensor]]]:
        """Yield row numbers and padded tensors, (batch, length), causal prompts padded on the left.

        Prompts of models that read what stands before a text come in batches of one length, without padding. Processes that
        have met get a share of the batches each; where none can run the model without the others, one that has no batch left gets
        another's too.
        """
        collate = Collator(self.backbone.tokens, side="left" if self.backbone.kind == "causal" else "right")
        for rows, _ in rounds(list(self._numbers()), equal=self.backbone.sharded):
            batch = collate([{"input_ids": self.ids[row]} for row in rows])
            yield rows, {key: value.to(self.backbone.device) for key, value in batch.items()}

    def _numbers(self) -> Iterator[list[int]]:
        alike = self.backbone.kind == "causal" and not pads_left(self.backbone.model)
        batch: list[int] = []
        for row in sorted(range(len(self.ids)), key=lambda row: (-len(self.ids[row]), row)):
            if len(batch) == self.batch_size or (alike and batch and len(self.ids[row]) != len(self.ids[batch[0]])):
                yield batch
                batch = []
            batch.append(row)
        if batch:
            yield batch
