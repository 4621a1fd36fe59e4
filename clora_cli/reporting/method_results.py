"""Results: runs grouped by method and order of tasks, with their spread over seeds (layer L3).

A *group* is one row of the papers' tables: a method, or a variant of it. A *series* is a group's runs of one order of tasks,
which differ only in their seed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from clora_cli.base import registry
from clora_cli.base.errors import UnknownNameError
from clora_cli.reporting.runs import plugins_of, summarise, summarise_stages
from clora_cli.reporting.scored_run import Floats, Run

__all__ = ["Group", "Order", "Results", "Series", "Spread", "Traits"]


@dataclass(frozen=True)
class Spread:
    """A mean and the standard deviation of its values: n - 1 in the denominator, NaN for fewer than two values."""

    mean: float
    deviation: float = math.nan

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Return the spread of some values; NaN if there are none, or if one is NaN."""
        if not values or any(map(math.isnan, values)):
            return cls(math.nan)
        return cls(float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else math.nan)


@dataclass(frozen=True)
class Traits:
    """What a method needs beyond the new task's data; None if that is not known.

    Attributes:
        reuses_data: Whether it trains on rows of earlier tasks.
        needs_task_id: Whether the task of each input must be known at test time.
        grows: Whether its model grows with the number of tasks.
        learns: Whether it trains anything.
    """

    reuses_data: bool | None = None
    needs_task_id: bool | None = None
    grows: bool | None = None
    learns: bool = True

    @property
    def fair(self) -> bool:
        """Whether it is ranked: it learns, and needs neither earlier rows nor the inputs' task."""
        return self.learns and not self.reuses_data and not self.needs_task_id

    @classmethod
    def of(cls, run: Run) -> Traits:
        """Return the traits that follow from the method's plug-ins and from how its adapters were combined."""
        needs_task_id = run.combine in {"task-id", "progressive"}
        plugins = plugins_of(run.method, run.recipe)
        if not plugins:
            return cls(needs_task_id=needs_task_id)
        reuses = any(bool(getattr(plugin, "reuses_data", False)) for plugin in plugins)
        grows = any(bool(getattr(plugin, "grows", False)) for plugin in plugins)
        return cls(reuses, needs_task_id, grows, any(bool(getattr(plugin, "trains", True)) for plugin in plugins))


@dataclass(frozen=True)
class Order:
    """An order of tasks: its short label and the tasks."""

    label: str
    tasks: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Series:
    """A group's runs of one order of tasks.

    Attributes:
        label: The group's.
        order: The order.
        runs: One for each seed.
    """

    label: str
    order: Order
    runs: tuple[Run, ...]

    @cached_property
    def metrics(self) -> dict[str, Spread]:
        """Every metric over the runs; if all tasks were learned at once, the average performance alone."""
        by_run = [_metrics(run, self.order) for run in self.runs]
        return {name: Spread.of([metrics[name] for metrics in by_run]) for name in by_run[0]}

    @cached_property
    def stages(self) -> list[dict[str, Spread]]:
        """Every metric after each stage, over the runs; nothing if all tasks were learned at once."""
        by_run = [summarise_stages(run) for run in self.runs]
        return [
            {name: Spread.of([metrics[name] for metrics in of_stage]) for name in of_stage[0]}
            for of_stage in zip(*by_run, strict=False)
        ]

    @cached_property
    def mean(self) -> Run:
        """The mean run: each score is the mean over the runs, for tasks that all of them scored."""
        first = self.runs[0]
        unseen = tuple(task for task in first.unseen if all(task in run.unseen for run in self.runs))
        columns = first.order + unseen
        indices = [[run.columns.index(task) for task in columns] for run in self.runs]
        runs = list(zip(self.runs, indices, strict=True))
        tasks = [task for task in columns if all(task in run.single for run in self.runs)]
        return replace(
            first,
            label=self.label,
            unseen=unseen,
            matrix=np.mean([run.matrix[:, chosen] for run, chosen in runs], axis=0),
            zero_shot=np.mean([run.zero_shot[chosen] for run, chosen in runs], axis=0),
            counts=first.counts[indices[0]],
            task_metrics=tuple(first.task_metrics[index] for index in indices[0]),
            single={task: float(np.mean([run.single[task] for run in self.runs])) for task in tasks},
        )

    @cached_property
    def deviation(self) -> Floats:
        """(stage,), percent: the standard deviation of the mean score so far over the runs; NaN for a single run."""
        if len(self.runs) < 2:
            return np.full(len(self.runs[0].order), math.nan)
        return np.asarray(np.std([run.trajectory for run in self.runs], axis=0, ddof=1))


@dataclass(frozen=True, eq=False)
class Group:
    """One method, or one variant of it.

    Attributes:
        label: A name that no other group has.
        traits: What it needs.
        series: Its runs by order. A run that learned all tasks at once, such as a merge, is there under every order of them.
    """

    label: str
    traits: Traits
    series: Mapping[Order, Series]

    def average(self, orders: Sequence[Order], metric: str) -> Spread:
        """Return the mean over orders of a metric's means, with the standard deviation of all runs; NaN if an order is missing."""
        spreads = [self.series[order].metrics[metric] for order in orders if order in self.series]
        if len(spreads) < len(orders):
            return Spread(math.nan)
        values = [_metrics(run, order)[metric] for order in orders for run in self.series[order].runs]
        return Spread(Spread.of([spread.mean for spread in spreads]).mean, Spread.of(values).deviation)


@dataclass(frozen=True, eq=False)
class Results:
    """All results: what tables and figures show.

    Attributes:
        runs: The runs, as ``assemble`` returns them.
        orders: The orders of tasks, in the order of their first run.
        groups: The methods, likewise.
        zero_shot: The base models whose scores are known; one for each base model and way of scoring.
        notes: Which runs were left out, and why.
    """

    runs: tuple[Run, ...]
    orders: tuple[Order, ...]
    groups: tuple[Group, ...]
    zero_shot: tuple[Group, ...]
    notes: tuple[str, ...] = ()

    @property
    def series(self) -> list[Series]:
        """Every series, order by order, groups in their order."""
        return [group.series[order] for order in self.orders for group in self.groups if order in group.series]

    def group(self, label: str) -> Group:
        """Return a group by its label.

        Raises:
            UnknownNameError: If there is none.
        """
        for group in self.groups:
            if group.label == label:
                return group
        raise UnknownNameError("method", label, [group.label for group in self.groups])


def _metrics(run: Run, order: Order) -> dict[str, float]:
    if run.order == order.tasks:
        return summarise(run)
    return dict.fromkeys(registry.names("metrics"), math.nan) | {
        "average-performance": float(run.final(order.tasks).mean())
    }
