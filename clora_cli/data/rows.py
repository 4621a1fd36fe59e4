"""Which rows of a task are taken (layer L1): one way to draw for training, for features and for whoever repeats them."""

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
        limit: How many were asked for; 0 if all are in.
        seed: What they were drawn by; None if all are in.
    """

    task: Task
    split: str
    examples: Sequence[Example]
    limit: int = 0
    seed: int | None = None

    @classmethod
    def draw(cls, task: Task, split: str, limit: int, seed: int, learn: str = "last") -> Rows:
        """Take the rows of a task's split, or so many of them, drawn by a seed and in their order.

        Args:
            task: The task.
            split: ``train``, ``dev`` or ``test``.
            limit: How many at most; 0 for all.
            seed: What to draw by.
            learn: ``last``, a row's own answer; ``all``, every answer of a conversation, each as a row of its own. What is
                drawn is conversations either way.
        """
        rows: Sequence[Example] = getattr(task, split)
        drawn = 0 < limit < len(rows)
        if drawn:
            rows = [rows[index] for index in sorted(random.Random(seed).sample(range(len(rows)), limit))]
        if learn == "all":
            rows = [one for row in rows for one in each_answer(row)]
        return cls(task, split, rows, limit, seed) if drawn else cls(task, split, rows)

    def recorded(self, *, private: bool = False) -> dict[str, Any]:
        """Return what a distribution says of them; a private one tells no checksum, by which data could be recognised."""
        entry = {"name": self.task.name, "split": self.split, "rows": len(self.examples)}
        return {
            **entry,
            "fingerprint": None if private else self.task.fingerprint,
            "limit": self.limit,
            "seed": self.seed,
        }
