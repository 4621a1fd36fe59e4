"""A run: one way of learning one order of tasks, with its stage x task matrix of scores (layer L3)."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clora_cli.reporting.run_folders import NO_RUN_FOLDER, RunFolder
from clora_cli.reporting.training_protocol import Protocol
from clora_cli.store.scores import BaseRef, Retention

__all__ = ["Floats", "Run"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Run:
    """One way of learning one order of tasks, scored.

    Attributes:
        label: A name that no other run of the report has.
        base: The base model.
        package: The package, as the user named it.
        method: The method that trained it.
        combine: How adapters were combined.
        score: How answers were scored.
        order: The learned tasks, in order.
        unseen: Tasks that were scored but are not in the order: never learned, or learned all at once.
        matrix: (stage, column), percent; columns are ``order`` then ``unseen``; NaN where not evaluated.
        zero_shot: (column,), percent; the base model alone.
        counts: (column,); number of test rows.
        task_metrics: (column,); each column's metric, ``""`` where never evaluated.
        single: The score of training on one task alone, percent, by task. It comes from runs under the protocol nearest to this
            run's: from the one with the same seed if there is one, else from their mean.
        folder: The run folder that it is in.
        seed: The seed that it was trained with; None if neither folder nor manifests say.
        recipe: Method and training, as JSON, from its adapters' manifests; ``""`` without manifests.
        protocol: By task, what a comparison keeps equal of its training; empty without manifests.
        single_protocol: The same of the runs that ``single`` comes from.
        settings: How it was evaluated.
        row_scores: Each test row's score, in [0, 1], by the task learned last and the task scored; without those whose files lack
            them.
        answers: A number for each test row's answer, by the task learned last (empty for the base model) and the task scored.
        retention: What was left of general ability, by the task learned last and by probe.
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
    folder: RunFolder = NO_RUN_FOLDER
    seed: int | None = None
    recipe: str = ""
    protocol: Protocol = field(default_factory=dict)
    single_protocol: Protocol = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    row_scores: Mapping[tuple[str, str], tuple[float, ...]] = field(default_factory=dict)
    answers: Mapping[tuple[str, str], tuple[int, ...]] = field(default_factory=dict)
    retention: Mapping[str, Mapping[str, Retention]] = field(default_factory=dict)
    sources: tuple[Path, ...] = ()

    @property
    def columns(self) -> tuple[str, ...]:
        """The matrix's tasks."""
        return self.order + self.unseen

    @property
    def at_once(self) -> bool:
        """Whether its tasks were learned all at once, so that its order means nothing: a merge, joint training, the base model."""
        return not any(self.task_metrics[: len(self.order)])

    @property
    def scored(self) -> slice:
        """The columns to show: all of them, or those scored if the tasks were learned all at once."""
        return slice(len(self.order) if self.at_once else 0, None)

    @property
    def route(self) -> str:
        """How inputs chose their adapters, as JSON; ``{}`` if they did not choose, or as the method prescribes."""
        return json.dumps(self.settings.get("route", {}), sort_keys=True)

    @property
    def trajectory(self) -> Floats:
        """(stage,), percent: the mean over the tasks learned so far; NaN if one of them was not evaluated."""
        return np.array([self.matrix[stage, : stage + 1].mean() for stage in range(len(self.order))])

    @property
    def final_rows(self) -> dict[str, tuple[float, ...]]:
        """Each test row's score after the last stage, in [0, 1], by task."""
        last = self.order[-1] if self.order else ""
        return {task: rows for (after, task), rows in self.row_scores.items() if after == last}

    def final(self, tasks: Iterable[str]) -> Floats:
        """Return the scores of some tasks after the last stage, or of the base model if there is no stage, percent."""
        last = self.matrix[-1] if len(self.matrix) else self.zero_shot
        scores = dict(zip(self.columns, last, strict=True))
        return np.array([scores.get(task, math.nan) for task in tasks], dtype=np.float64)
