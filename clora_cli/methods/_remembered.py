"""What methods share that hold every step to the gradients of earlier tasks' remembered rows."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from clora_cli.base import registry
from clora_cli.methods import Memory, Method, Run

__all__ = ["Remembered"]


@dataclass(frozen=True, kw_only=True)
class Remembered(Method):
    """Base of methods that train one LoRA on and filter its gradients by a memory that they do not train on.

    Attributes:
        rows: Rows of each earlier task in the memory at most; 0 for all.
        sample: Remembered rows that a gradient is taken of in each step; 0 for all.
        pseudo: A file of rows that takes the place of earlier tasks' own.
    """

    past = "none"
    start = "previous"
    combine = "last"
    joins = True

    rows: int = 50
    sample: int = 8
    pseudo: str = registry.added("")

    def memory(self) -> Memory:
        """Return which rows are in the memory: the method alone reads them."""
        return Memory(rows=self.rows, mixed=False, file=self.pseudo)

    def drawn(self, run: Run, rows: Sequence[int]) -> Sequence[int]:
        """Return the remembered rows of this step, of those given: by the run's seed and the step."""
        some = 0 < self.sample < len(rows)
        return random.Random(f"{run.seed}/{run.step}").sample(rows, self.sample) if some else rows
