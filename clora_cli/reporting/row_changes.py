"""Rows that were right before and are wrong after, between two points of a run (layer L3)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from clora_cli.reporting.bootstrap import Estimate, paired_bootstrap
from clora_cli.reporting.scored_run import Run

__all__ = ["RowChange", "TaskChange", "changes_since_learned", "changes_to", "row_change"]


@dataclass(frozen=True)
class RowChange:
    """How the same rows scored at two points.

    Attributes:
        estimate: Score after minus score before, percent points, with its interval over other rows of the kind.
        lost: Rows that were right before and are wrong after; under a graded metric, that score less.
        gained: The reverse.
        rows: All rows.
    """

    estimate: Estimate
    lost: int
    gained: int
    rows: int


@dataclass(frozen=True)
class TaskChange:
    """The rows of earlier tasks between two stages of one run.

    Attributes:
        label: The run's.
        stage: The number of tasks learned after.
        after: The task learned last.
        task: The earlier task since it was learned; empty for all earlier tasks together since the stage before.
        change: What became of their rows.
    """

    label: str
    stage: int
    after: str
    task: str
    change: RowChange


def row_change(before: Sequence[float], after: Sequence[float]) -> RowChange | None:
    """Compare rows at two points; None without rows, or with other ones.

    Args:
        before: The score of each row, in [0, 1].
        after: The same of the same rows.
    """
    if not before or len(before) != len(after):
        return None
    moved = np.array(after, dtype=np.float64) - np.array(before, dtype=np.float64)
    return RowChange(paired_bootstrap([100 * moved]), int((moved < 0).sum()), int((moved > 0).sum()), len(moved))


def changes_since_learned(runs: Sequence[Run]) -> Iterator[TaskChange]:
    """Yield, of every run, each earlier task's rows right after it was learned and after the last stage."""
    for run in runs:
        for task in run.order[:-1]:
            last = run.order[-1]
            if change := row_change(run.row_scores.get((task, task), ()), run.row_scores.get((last, task), ())):
                yield TaskChange(run.label, len(run.order), last, task, change)


def changes_to(runs: Sequence[Run]) -> Iterator[TaskChange]:
    """Yield, of every run, the rows of all tasks learned before each stage: before it and after it.

    Rows of several tasks count alike, whatever their task.
    """
    for run in runs:
        for stage, (previous, after) in enumerate(zip(run.order, run.order[1:], strict=False), start=1):
            pairs = [
                (run.row_scores.get((previous, task), ()), run.row_scores.get((after, task), ()))
                for task in run.order[:stage]
            ]
            if all(before and len(before) == len(now) for before, now in pairs):
                before, now = ([score for pair in pairs for score in pair[side]] for side in (0, 1))
                if change := row_change(before, now):
                    yield TaskChange(run.label, stage + 1, after, "", change)
