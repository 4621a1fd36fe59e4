"""Mean scores at the end by group of tasks: the categories of tasks never learned, and the parts that unions are made of (layer L3).

PFD (ICML 2025) prints the first as its table 4, the second, with packages put together without training, as its table 5.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from clora_cli.data.bundled import category_of
from clora_cli.reporting.method_results import Group, Results, Spread
from clora_cli.reporting.scored_run import Run

__all__ = ["GroupRow", "GroupTable", "group_tables"]

_OTHERS = "others"  # of no known kind


@dataclass(frozen=True, eq=False)
class GroupRow:
    """One method's mean scores after its last task, percent.

    Attributes:
        label: The method's.
        scores: Over the runs that were scored on a group, a mean over its tasks; NaN where none was.
        average: The mean over the groups.
        change: For each group, the mean less that of the method which learned this group alone; NaN where there is nothing to compare.
    """

    label: str
    scores: tuple[Spread, ...]
    average: Spread
    change: tuple[float, ...]


@dataclass(frozen=True, eq=False)
class GroupTable:
    """A table with a column for each group of tasks.

    Attributes:
        title: What its groups are.
        groups: The tasks of each group by its name.
        rows: The methods that scored a group at least.
    """

    title: str
    groups: Mapping[str, tuple[str, ...]]
    rows: tuple[GroupRow, ...]


def group_tables(results: Results) -> list[GroupTable]:
    """Return the tables that there are scores for: of tasks never learned, and of parts that some method has in common."""
    groups = (*results.zero_shot, *results.groups)
    return [*_never_learned(results, groups), *_parts(results)]


def _never_learned(results: Results, groups: Sequence[Group]) -> Iterator[GroupTable]:
    runs = [run for run in results.runs if not run.at_once]
    learned = {task for run in runs for task in run.order}
    kinds: dict[str, list[str]] = {}
    for task in dict.fromkeys(task for run in runs for task in run.unseen if task not in learned):
        kinds.setdefault(category_of(task) or _OTHERS, []).append(task)
    columns = {kind: tuple(tasks) for kind, tasks in kinds.items()}
    rows = [row for group in groups if (row := _row(group, columns))]
    if columns and rows:
        yield GroupTable("Tasks never learned", columns, tuple(rows))


def _parts(results: Results) -> Iterator[GroupTable]:
    """Yield the table of orders that share no task, where a method was scored on two of them."""
    learners = {order: [g for g in results.groups if order in g.series and not _at_once(g)] for order in results.orders}
    columns: dict[str, tuple[str, ...]] = {}
    own: dict[str, float] = {}
    for order, learned_by in sorted(learners.items(), key=lambda pair: len(pair[0].tasks)):
        taken = {task for tasks in columns.values() for task in tasks}
        if learned_by and not taken.intersection(order.tasks):
            name = learned_by[0].label if len(learned_by) == 1 == len(learned_by[0].series) else order.label
            columns[name] = order.tasks
            own[name] = learned_by[0].series[order].mean.final(order.tasks).mean()
    rows = [row for group in results.groups if (row := _row(group, columns, own))]
    if len(columns) > 1 and any(not math.isnan(row.average.mean) for row in rows):
        yield GroupTable("Parts and their unions", columns, tuple(rows))


def _row(group: Group, columns: Mapping[str, Sequence[str]], own: Mapping[str, float] | None = None) -> GroupRow | None:
    """Return a method's row; None if no group of tasks is wholly scored."""
    runs = list(dict.fromkeys(run for series in group.series.values() for run in series.runs))
    by_run = np.array([[run.final(tasks).mean() for tasks in columns.values()] for run in runs])
    if not columns or np.isnan(by_run).all():
        return None
    scores = tuple(_over_scored(values) for values in by_run.T)
    learned = {task for run in runs for task in run.order}
    change = [
        spread.mean - (own or {}).get(name, math.nan) if learned > set(tasks) else math.nan
        for spread, (name, tasks) in zip(scores, columns.items(), strict=True)
    ]
    return GroupRow(group.label, scores, _over_scored(by_run.mean(axis=1)), tuple(change))


def _over_scored(values: Sequence[float]) -> Spread:
    """Return the spread over the runs that were scored; not every seed may be."""
    return Spread.of([value for value in values if not math.isnan(value)])


def _at_once(group: Group) -> bool:
    runs: list[Run] = [run for series in group.series.values() for run in series.runs]
    return all(run.at_once for run in runs)
