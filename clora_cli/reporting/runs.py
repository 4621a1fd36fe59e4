"""Runs: scores files that belong together, merged into one stage x task matrix (layer L3).

Files belong to one run if base fingerprint, package, method, combine and score are equal and their task orders are
prefixes of one another: a package that grew. Base-model rows and a per-task run among the files are lent to the others.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from clora_cli import registry
from clora_cli.errors import MismatchError
from clora_cli.reporting._labels import labels
from clora_cli.scores import BaseRef, Scores, TaskScore

__all__ = ["Run", "assemble", "summarise"]

Floats = NDArray[np.float64]
_Cells = dict[tuple[str, str], tuple[TaskScore, str]]  # (after, task) -> score, and the file it came from
_ALONE = ("task-id", "last")  # ways to combine under which the diagonal is one adapter alone


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
        unseen: Tasks that were scored but never learned.
        matrix: (stage, column), percent; columns are ``order`` then ``unseen``; NaN where not evaluated.
        zero_shot: (column,), percent; the base model alone.
        counts: (column,); number of test rows.
        task_metrics: (column,); each column's metric, ``""`` where never evaluated.
        single: Percent by task: training on that task alone.
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

    @property
    def columns(self) -> tuple[str, ...]:
        """The matrix's tasks."""
        return self.order + self.unseen

    @property
    def trajectory(self) -> Floats:
        """(stage,), percent: the mean over the tasks learned so far, NaN where one of them was not evaluated."""
        return np.array([self.matrix[stage, : stage + 1].mean() for stage in range(len(self.order))])


def assemble(scores_files: Sequence[Scores]) -> list[Run]:
    """Merge scores files into runs, in the order in which they are first met.

    A file with nothing but base-model rows lends them to every run of the same base and way of scoring, and is a run
    of its own only if there is none. A per-task run lends its diagonal as ``single`` likewise.

    Raises:
        MismatchError: If two files disagree on one entry, on the adapter of one task or on how a task is scored.
    """
    drafts = [_draft(group) for group in _groups(scores_files)]
    stageless = [draft for draft in drafts if not draft.learned]
    runs = []
    for draft in drafts:
        if draft.learned:
            _lend_zero_shot(draft, stageless)
            runs.append((draft, _run(draft)))
    if not runs:
        runs = [(draft, _run(draft)) for draft in stageless]
    alone = [(draft, run) for draft, run in runs if run.method == "per-task" and run.combine in _ALONE]
    complete = [replace(run, single=_single(draft, alone)) for draft, run in runs]
    return [replace(run, label=label) for run, label in zip(complete, labels(complete), strict=True)]


def summarise(run: Run, single: Mapping[str, float] | None = None) -> dict[str, float]:
    """Compute every metric plug-in over a run's learned tasks.

    Args:
        run: The run.
        single: Percent by task of training on that task alone; default: what ``assemble`` found among its files.

    Returns:
        Percent points by metric name; NaN where an entry that the metric needs is missing.
    """
    size = len(run.order)
    known = run.single if single is None else single
    learned = run.matrix[:, :size]
    alone = np.array([known.get(task, math.nan) for task in run.order], dtype=np.float64)
    counts, zero_shot = run.counts[:size], run.zero_shot[:size]
    return {
        name: float(registry.load("metrics", name)(learned, single=alone, counts=counts, zero_shot=zero_shot))
        for name in registry.names("metrics")
    }


@dataclass
class _Draft:
    """A run while its cells are collected."""

    first: Scores
    order: tuple[str, ...]
    cells: _Cells = field(default_factory=dict)
    yardsticks: dict[str, tuple[str, str]] = field(default_factory=dict)  # task -> how it is scored, and the file

    @property
    def learned(self) -> bool:
        return any(after for after, _ in self.cells)

    def add(self, after: str, task: str, cell: TaskScore, source: str) -> None:
        """Enter one cell; the same one twice is fine, another value is not, nor another yardstick for the task."""
        self.check_yardstick(task, cell, source)
        self.yardsticks.setdefault(task, (_yardstick(cell), source))
        known, where = self.cells.setdefault((after, task), (cell, source))
        if not math.isclose(known.value, cell.value, abs_tol=1e-6):
            stage = f"after learning {after}" if after else "of the base model"
            raise MismatchError(
                f"two scores of {task} {stage}: {known.value:g} in {where}, {cell.value:g} in {source}; "
                "leave one file out, or give each run a package folder of its own"
            )

    def check_yardstick(self, task: str, cell: TaskScore, source: str) -> None:
        """Refuse a score that is not measured as the task's other scores are."""
        mine = _yardstick(cell)
        known, where = self.yardsticks.get(task, (mine, source))
        if known != mine:
            raise MismatchError(
                f"{task} is scored by {known} in {where} but by {mine} in {source}; "
                "evaluate both in one way, or leave one file out"
            )


def _yardstick(cell: TaskScore) -> str:
    return f"{cell.metric} ({cell.formula}) on {cell.total} rows"


def _groups(files: Sequence[Scores]) -> list[list[Scores]]:
    """Group files by run; a short order joins every longer one that begins with it (runs may share their start)."""
    groups: dict[tuple[str, ...], dict[tuple[str, ...], list[Scores]]] = {}
    for file in files:
        key = (file.base.fingerprint, file.package, file.method, file.combine, file.score)
        groups.setdefault(key, {}).setdefault(file.order, []).append(file)
    result = []
    for orders in groups.values():
        longest = [order for order in orders if not any(_begins(other, order) for other in orders if other != order)]
        result += [[file for order in orders if _begins(full, order) for file in orders[order]] for full in longest]
    return result


def _begins(order: Sequence[str], start: Sequence[str]) -> bool:
    return tuple(order[: len(start)]) == tuple(start)


def _draft(group: Sequence[Scores]) -> _Draft:
    order = max((file.order for file in group), key=len)
    _check_adapters(group)
    draft = _Draft(group[0], order)
    for file in group:
        for row in file.rows:
            for task, cell in row.scores.items():
                draft.add(row.after, task, cell, _name(file))
    return draft


def _check_adapters(group: Sequence[Scores]) -> None:
    known: dict[str, tuple[str, str]] = {}
    for file in group:
        for adapter in (adapter for row in file.rows for adapter in row.adapters):
            digest, where = known.setdefault(adapter.task, (adapter.sha256, _name(file)))
            if digest != adapter.sha256:
                raise MismatchError(
                    f"{where} and {_name(file)} scored different adapters of {adapter.task} in one package "
                    f"'{file.package}'; evaluate again, or give each run a package folder of its own"
                )


def _name(file: Scores) -> str:
    return str(file.source) if file.source else f"the scores of '{file.package}'"


def _lend_zero_shot(draft: _Draft, lenders: Iterable[_Draft]) -> None:
    for lender in lenders:
        if (lender.first.base.fingerprint, lender.first.score) == (draft.first.base.fingerprint, draft.first.score):
            for (after, task), (cell, source) in lender.cells.items():
                draft.add(after, task, cell, source)


def _run(draft: _Draft) -> Run:
    first = draft.first
    scored = dict.fromkeys(task for _, task in draft.cells)
    unseen = tuple(task for task in scored if task not in draft.order)
    columns = draft.order + unseen
    by_task = {task: cell for (_, task), (cell, _) in draft.cells.items()}
    return Run(
        label="",
        base=first.base,
        package=first.package,
        method=first.method,
        combine=first.combine,
        score=first.score,
        order=draft.order,
        unseen=unseen,
        matrix=np.array([_row(draft, after, columns) for after in draft.order]).reshape(len(draft.order), len(columns)),
        zero_shot=_row(draft, "", columns),
        counts=np.array([by_task[task].total if task in by_task else math.nan for task in columns], dtype=np.float64),
        task_metrics=tuple(by_task[task].metric if task in by_task else "" for task in columns),
        single={},
    )


def _row(draft: _Draft, after: str, columns: Iterable[str]) -> Floats:
    cells = (draft.cells.get((after, task)) for task in columns)
    return np.array([cell[0].value if cell else math.nan for cell in cells], dtype=np.float64)


def _single(draft: _Draft, alone: Iterable[tuple[_Draft, Run]]) -> dict[str, float]:
    """Collect the per-task runs' diagonals of the same base and way of scoring; they must agree among themselves."""
    found = _Draft(draft.first, draft.order)
    wanted = (draft.first.base.fingerprint, draft.first.score)
    for other, run in alone:
        if (run.base.fingerprint, run.score) != wanted:
            continue
        for task in draft.order:
            if (task, task) in other.cells:
                cell, source = other.cells[task, task]
                draft.check_yardstick(task, cell, source)
                found.add(task, task, cell, source)
    return {task: cell.value for (task, _), (cell, _) in found.cells.items()}
