"""One way of learning one order of tasks, scored: its stage x task matrix and what is known of it (layer L3)."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clora_cli.reporting.run_folders import NOWHERE, Place
from clora_cli.reporting.training_protocol import Protocol
from clora_cli.store.scores import BaseRef

__all__ = ["Floats", "Run"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Run:
    """One way of learning one order of tasks, scored.

    Attributes:
        label: A name that tells it from the runs beside it.
        base: The base model.
        package: The package, as the user named it.
        method: The method that trained it.
        combine: How adapters were combined.
        score: How answers were scored.
        order: The learned tasks, in order.
        unseen: Tasks that were scored but are not in the order: never learned, or learned at once.
        matrix: (stage, column), percent; columns are ``order`` then ``unseen``; NaN where not evaluated.
        zero_shot: (column,), percent; the base model alone.
        counts: (column,); number of test rows.
        task_metrics: (column,); each column's metric, ``""`` where never evaluated.
        single: Percent by task: training on that task alone, under the protocol that comes nearest to this run's, with the same seed if
            there is such a run, else on average.
        place: What the folders say that it lies in.
        seed: The seed that it was trained with; None where nothing tells.
        recipe: What its adapters' manifests say of method and training, as JSON; ``""`` where they are not at hand.
        protocol: By task, what a comparison holds equal of its training; empty where its adapters' manifests are not at hand.
        single_protocol: The same of what ``single`` comes from.
        settings: How it was evaluated, as its scores files say.
        final_rows: Each test row's score after the last stage, in [0, 1], by task; without tasks that do not say.
        sources: Its scores files.
    """

    label: str
    base: BaseRef
    package: str
    method: str
    combine: str
    score: str
    order: tuple[str, ...]
    unseen: tuple[str, ...]
    matrix: Floats
    zero_shot: Floats
    counts: Floats
    task_metrics: tuple[str, ...]
    single: Mapping[str, float]
    place: Place = NOWHERE
    seed: int | None = None
    recipe: str = ""
    protocol: Protocol = field(default_factory=dict)
    single_protocol: Protocol = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    final_rows: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    sources: tuple[Path, ...] = ()

    @property
    def columns(self) -> tuple[str, ...]:
        """The matrix's tasks."""
        return self.order + self.unseen

    @property
    def at_once(self) -> bool:
        """Whether it has no order that it was scored in: a merge, joint training, the base model."""
        return not any(self.task_metrics[: len(self.order)])

    @property
    def scored(self) -> slice:
        """The columns to show: all, or the tasks scored of what was learned at once, whose order says nothing."""
        return slice(len(self.order) if self.at_once else 0, None)

    @property
    def route(self) -> str:
        """How inputs chose their adapters, as JSON; ``{}`` where they did not, or as the method says."""
        return json.dumps(self.settings.get("route", {}), sort_keys=True)

    @property
    def trajectory(self) -> Floats:
        """(stage,), percent: the mean over the tasks learned so far, NaN where one of them was not evaluated."""
        return np.array([self.matrix[stage, : stage + 1].mean() for stage in range(len(self.order))])

    def final(self, tasks: Iterable[str]) -> Floats:
        """Return the scores on some tasks after the last stage, or of the base model alone if there is none, percent."""
        last = self.matrix[-1] if len(self.matrix) else self.zero_shot
        known = dict(zip(self.columns, last, strict=True))
        return np.array([known.get(task, math.nan) for task in tasks], dtype=np.float64)
