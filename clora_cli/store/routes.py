"""Which adapters inputs were routed to, counted by task (layer L1); reports show them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

__all__ = ["Routes"]

_Matrix = tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Routes:
    """Which adapters the inputs of each task were routed to.

    Attributes:
        adapters: The adapters' names, in the package's order.
        tasks: The inputs' tasks: those that an adapter knows, in the adapters' order, then others in order of appearance; ""
            for inputs whose task is not known.
        knows: For each task, the numbers from 0 of the adapters that know it.
        counts: Inputs of a task that chose an adapter, (task, adapter).
        abstained: For each task, its inputs that went to the base model.
        weights: Mean weight over a task's inputs and over deciding sites, (task, adapter), in [0, 1]; rows sum to 1 minus
            the share of inputs that abstained.
        panels: The same for parts of the deciding sites, by name, such as ``layer 3 v_proj``; empty if there is only one
            part, or none was requested.
        settings: How inputs chose: ``similarity``, ``top_k``, ``temperature`` and the like.
    """

    adapters: tuple[str, ...]
    tasks: tuple[str, ...]
    knows: tuple[tuple[int, ...], ...]
    counts: tuple[tuple[int, ...], ...]
    abstained: tuple[int, ...]
    weights: _Matrix
    panels: Mapping[str, _Matrix] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def inputs(self) -> tuple[int, ...]:
        """Number of inputs of each task."""
        return tuple(sum(row) + away for row, away in zip(self.counts, self.abstained, strict=True))

    @cached_property
    def known(self) -> tuple[int, ...]:
        """The numbers from 0 of the tasks that an adapter knows."""
        return tuple(number for number, knows in enumerate(self.knows) if knows)

    def correct(self, task: int) -> int:
        """Return how many inputs of a task, by its number, chose an adapter that knows it."""
        return sum(self.counts[task][adapter] for adapter in self.knows[task])

    def accuracy(self, task: int) -> float | None:
        """Return the percentage of a task's inputs that chose an adapter that knows it; None if no adapter does."""
        return 100 * self.correct(task) / self.inputs[task] if self.knows[task] else None

    @property
    def macro(self) -> float | None:
        """Mean accuracy over the tasks that an adapter knows, percent; None if there is none."""
        if not self.known:
            return None
        return sum(100 * self.correct(task) / self.inputs[task] for task in self.known) / len(self.known)

    @property
    def micro(self) -> float | None:
        """Accuracy over all inputs of tasks that an adapter knows, percent; None if there is none."""
        total = sum(self.inputs[task] for task in self.known)
        return 100 * sum(map(self.correct, self.known)) / total if total else None
