"""Draw rows of a task (layer L1): the same way for training, for features and for repeating either."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from clora_cli.data.task import Example, Task
from clora_cli.data.templates import each_answer

__all__ = ["Rows"]


@dataclass(frozen=True, eq=False)
class Rows:
    """Some rows of a task's split.

    Attributes:
        task: The task.
        split: Which split they are from.
        examples: The rows.
        limit: How many were asked for; 0 if all are included.
        seed: The seed that they were drawn with; None if all are included.
    """

    task: Task
    split: str
    examples: Sequence[Example]
    limit: int = 0
    seed: int | None = None

    @classmethod
    def draw(cls, task: Task, split: str, limit: int, seed: int, learn: str = "last") -> Rows:
        """Take the rows of a task's split, or some of them, drawn with a seed and kept in order.

        Args:
            task: The task.
            split: ``train``, ``dev`` or ``test``.
            limit: How many at most; 0 for all.
            seed: The seed to draw with.
            learn: ``last`` for a row's own answer; ``all`` for every answer of a conversation, each as a row of its own.
                Whole conversations are drawn either way.
        """
        rows: Sequence[Example] = getattr(task, split)
        drawn = 0 < limit < len(rows)
        if drawn:
            rows = [rows[index] for index in sorted(random.Random(seed).sample(range(len(rows)), limit))]
        if learn == "all":
            rows = [turn for row in rows for turn in each_answer(row)]
        return cls(task, split, rows, limit, seed) if drawn else cls(task, split, rows)

    def recorded(self, *, private: bool = False) -> dict[str, Any]:
        """Return what a distribution records of them; a private one omits the checksum, which could identify the data."""
        entry = {"name": self.task.name, "split": self.split, "rows": len(self.examples)}
        return {
            **entry,
            "fingerprint": None if private else self.task.fingerprint,
            "limit": self.limit,
            "seed": self.seed,
        }
