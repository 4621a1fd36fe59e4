"""Runs grouped by method and order of tasks, repetitions together, with the base models beside them (layer L3)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import takewhile
from pathlib import Path

import numpy as np

from clora_cli.reporting.labels import names
from clora_cli.reporting.method_results import Group, Order, Results, Series, Traits
from clora_cli.reporting.run_folders import RunFolder
from clora_cli.reporting.scored_run import Run

__all__ = ["bring_together"]

_ZERO_SHOT = "zero-shot"


def bring_together(runs: Sequence[Run]) -> Results:
    """Group runs by method and order; those that differ only in their seed are repetitions of one another.

    Runs of one method and order in different packages count as repetitions too, unless a seed occurs twice or their
    manifests show different options: then each folder of runs gets a row of its own. A run in a run folder that has learned
    only the first tasks of another's order is unfinished and left out.
    """
    notes = [note for run in runs if (note := _unfinished(run, runs))]
    runs = [run for run in runs if not _unfinished(run, runs)]
    methods = [part for same_method in _split(runs, _same) for part in _apart(same_method)]
    methods.sort(key=lambda method_runs: min(map(runs.index, method_runs)))
    orders = _orders(runs)
    row_names = names([method_runs[0] for method_runs in methods])
    groups = [_group(name, method_runs, orders) for name, method_runs in zip(row_names, methods, strict=True)]
    return Results(tuple(runs), tuple(orders), tuple(groups), tuple(_base_models(runs, orders)), tuple(notes))


def _unfinished(run: Run, runs: Sequence[Run]) -> str:
    """Return why a run is left out; ``""`` if it is not."""
    size = len(run.order)
    whole = max((len(other.order) for other in runs if other.order[:size] == run.order), default=size)
    if run.seed is None or not run.folder.name or not size or whole == size:
        return ""
    return f"{run.folder.name}, seed {run.seed}, has learned {size} of {whole} tasks: left out until it is finished"


def _same(run: Run) -> tuple[str, ...]:
    return (run.base.fingerprint, run.folder.name, run.method, run.combine, run.score, run.route)


def _split(runs: Iterable[Run], key: Callable[[Run], object]) -> list[list[Run]]:
    parts: dict[object, list[Run]] = {}
    for run in runs:
        parts.setdefault(key(run), []).append(run)
    return list(parts.values())


def _apart(runs: list[Run]) -> list[list[Run]]:
    """Separate runs that are not repetitions: by the folder of runs, then by the package."""
    parts = [runs]
    for key in (lambda run: run.folder.root, lambda run: run.package):
        parts = [piece for part in parts for piece in (_split(part, key) if _clash(part) else [part])]
    return parts


def _clash(runs: Sequence[Run]) -> bool:
    """Tell whether runs cannot all be repetitions of one another."""
    for same_order in _split(runs, lambda run: run.order):
        seeds = [run.seed for run in same_order if run.seed is not None]
        recipes = {run.recipe for run in same_order if run.recipe and not run.folder.name}
        if len(set(seeds)) < len(seeds) or len(recipes) > 1:
            return True
    return False


def _orders(runs: Sequence[Run]) -> list[Order]:
    """Return the orders of tasks; for runs that learned tasks at once, these tasks too if no order covers them."""
    orders = dict.fromkeys(run.order for run in runs if not run.at_once)
    for run in runs:
        if run.at_once and not any(_covers(run, tasks) for tasks in orders):
            orders.setdefault(_tasks_of(run))
    roots = [{Path(run.folder.root).name for run in runs if run.order == tasks} for tasks in orders]
    folders = [next(iter(names_of_order)) for names_of_order in roots if len(names_of_order) == 1]
    distinct = len(set(folders) - {""}) == len(orders)
    order_labels = _short(folders) if distinct else [f"order {number}" for number in range(1, len(orders) + 1)]
    return [Order(label, tasks) for label, tasks in zip(order_labels, orders, strict=True)]


def _short(labels: Sequence[str]) -> list[str]:
    """Drop the words that all labels begin with: ``small-order1`` and ``small-order2`` become ``order1`` and ``order2``."""
    if len(labels) < 2:
        return list(labels)
    words = [label.split("-") for label in labels]
    beginnings = zip(*(parts[:-1] for parts in words), strict=False)  # a word of each stays, or two could become equal
    alike = sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, beginnings))
    return ["-".join(parts[alike:]) for parts in words]


def _tasks_of(run: Run) -> tuple[str, ...]:
    return (run.unseen or run.order) if run.at_once else run.order


def _covers(run: Run, tasks: Sequence[str]) -> bool:
    return bool(tasks) and not np.isnan(run.final(tasks)).any()


def _group(label: str, runs: Sequence[Run], orders: Sequence[Order]) -> Group:
    series = {}
    for order in orders:
        fitting = [run for run in runs if _tasks_of(run) == order.tasks or (run.at_once and _covers(run, order.tasks))]
        if fitting:
            series[order] = Series(label, order, tuple(fitting))
    return Group(label, Traits.of(runs[0]), series)


def _base_models(runs: Sequence[Run], orders: Sequence[Order]) -> list[Group]:
    """Return the base models, each on every order for which a run has all of its scores."""
    traits = Traits(reuses_data=False, needs_task_id=False, grows=False, learns=False)
    base_models = []
    for same_base in _split([run for run in runs if run.order], lambda run: (run.base.fingerprint, run.score)):
        by_order = {order: bare for order in orders if (bare := _bare(same_base, order)) is not None}
        if by_order:
            base_models.append(by_order)
    row_names = names([next(iter(by_order.values())) for by_order in base_models])
    return [
        Group(name, traits, {order: Series(name, order, (run,)) for order, run in by_order.items()})
        for name, by_order in zip(row_names, base_models, strict=True)
    ]


def _bare(runs: Iterable[Run], order: Order) -> Run | None:
    """Return the base model as a run, from the first run that has its scores of all tasks; None if there is none."""
    for run in runs:
        zero_shot = dict(zip(run.columns, run.zero_shot, strict=True))
        scores = np.array([zero_shot.get(task, np.nan) for task in order.tasks])
        if not np.isnan(scores).any():
            return replace(
                run,
                method=_ZERO_SHOT,
                combine="none",
                package="",
                order=(),
                unseen=order.tasks,
                matrix=np.empty((0, len(scores))),
                zero_shot=scores,
                folder=RunFolder("", _ZERO_SHOT, None),
                settings={},
                single={},
                row_scores={},
                answers={},
            )
    return None
