"""Which runs are repetitions of which: methods, orders of tasks, and the base model beside them (layer L3)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import takewhile
from pathlib import Path

import numpy as np

from clora_cli.reporting.labels import names
from clora_cli.reporting.method_results import Group, Order, Results, Series, Traits
from clora_cli.reporting.run_folders import Place
from clora_cli.reporting.scored_run import Run

__all__ = ["bring_together"]

_ZERO_SHOT = "zero-shot"


def bring_together(runs: Sequence[Run]) -> Results:
    """Group runs by method and order; those that differ in their seed alone are repetitions of one another.

    Runs of one method and one order in different packages count as repetitions too, unless their manifests are at hand and
    tell of different options, or one seed was run twice: then each folder of runs is a row of its own. A run of a run folder
    that has learned only the first tasks of another's order is not finished, and left out.
    """
    notes = [note for run in runs if (note := _unfinished(run, runs))]
    runs = [run for run in runs if not _unfinished(run, runs)]
    buckets = [part for bucket in _split(runs, _same) for part in _apart(bucket)]
    buckets.sort(key=lambda bucket: min(map(runs.index, bucket)))
    orders = _orders(runs)
    groups = [
        _group(label, bucket, orders) for label, bucket in zip(names([b[0] for b in buckets]), buckets, strict=True)
    ]
    return Results(tuple(runs), tuple(orders), tuple(groups), tuple(_base_models(runs, orders)), tuple(notes))


def _unfinished(run: Run, runs: Sequence[Run]) -> str:
    size = len(run.order)
    whole = max((len(other.order) for other in runs if other.order[:size] == run.order), default=size)
    if run.seed is None or not run.place.name or not size or whole == size:
        return ""
    return f"{run.place.name}, seed {run.seed}, has learned {size} of {whole} tasks: left out until it is finished"


def _same(run: Run) -> tuple[str, ...]:
    return (run.base.fingerprint, run.place.name, run.method, run.combine, run.score, run.route)


def _split(runs: Iterable[Run], key: Callable[[Run], object]) -> list[list[Run]]:
    found: dict[object, list[Run]] = {}
    for run in runs:
        found.setdefault(key(run), []).append(run)
    return list(found.values())


def _apart(bucket: list[Run]) -> list[list[Run]]:
    """Take runs apart that are no repetitions: by the folder of runs, then by the package."""
    parts = [bucket]
    for key in (lambda run: run.place.root, lambda run: run.package):
        parts = [piece for part in parts for piece in (_split(part, key) if _clash(part) else [part])]
    return parts


def _clash(bucket: Sequence[Run]) -> bool:
    for runs in _split(bucket, lambda run: run.order):
        seeds = [run.seed for run in runs if run.seed is not None]
        recipes = {run.recipe for run in runs if run.recipe and not run.place.name}
        if len(set(seeds)) < len(seeds) or len(recipes) > 1:
            return True
    return False


def _orders(runs: Sequence[Run]) -> list[Order]:
    """Return the orders in which tasks were learned; of models that learned them at once, the tasks if no order has them."""
    found = dict.fromkeys(run.order for run in runs if not run.at_once)
    for run in runs:
        if run.at_once and not any(_covers(run, tasks) for tasks in found):
            found.setdefault(_own(run))
    roots = [{Path(run.place.root).name for run in runs if run.order == tasks} for tasks in found]
    known = [next(iter(root)) for root in roots if len(root) == 1]
    told = len(set(known) - {""}) == len(found)
    named = _short(known) if told else [f"order {n + 1}" for n in range(len(found))]
    return [Order(label, tasks) for label, tasks in zip(named, found, strict=True)]


def _short(labels: Sequence[str]) -> list[str]:
    """Leave out the words that all begin with: of ``small-order1`` and ``small-order2`` stay ``order1`` and ``order2``."""
    words = [label.split("-") for label in labels]
    alike = sum(1 for _ in takewhile(lambda each: len(set(each)) == 1, zip(*words, strict=False)))
    return ["-".join(each[alike:]) or label for label, each in zip(labels, words, strict=True)]


def _own(run: Run) -> tuple[str, ...]:
    return (run.unseen or run.order) if run.at_once else run.order


def _covers(run: Run, tasks: Sequence[str]) -> bool:
    return bool(tasks) and not np.isnan(run.final(tasks)).any()


def _group(label: str, bucket: Sequence[Run], orders: Sequence[Order]) -> Group:
    series = {}
    for order in orders:
        fitting = [run for run in bucket if _own(run) == order.tasks or (run.at_once and _covers(run, order.tasks))]
        if fitting:
            series[order] = Series(label, order, tuple(fitting))
    return Group(label, Traits.of(bucket[0]), series)


def _base_models(runs: Sequence[Run], orders: Sequence[Order]) -> list[Group]:
    """Return the base models alone, on every order that a run of theirs tells their scores on."""
    traits = Traits(reuses_data=False, needs_task_id=False, grows=False, learns=False)
    found = []
    for bucket in _split([run for run in runs if run.order], lambda run: (run.base.fingerprint, run.score)):
        bare = {order: one for order in orders if (one := _bare(bucket, order)) is not None}
        if bare:
            found.append(bare)
    labels = names([next(iter(bare.values())) for bare in found])
    return [
        Group(label, traits, {order: Series(label, order, (run,)) for order, run in bare.items()})
        for label, bare in zip(labels, found, strict=True)
    ]


def _bare(bucket: Iterable[Run], order: Order) -> Run | None:
    for run in bucket:
        known = dict(zip(run.columns, run.zero_shot, strict=True))
        scores = np.array([known.get(task, np.nan) for task in order.tasks])
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
                place=Place("", _ZERO_SHOT, None),
                settings={},
                single={},
                final_rows={},
            )
    return None
