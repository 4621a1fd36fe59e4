"""What a claim of a paper says about finished runs, measured: the few kinds of ``claims.yaml``, each one function.

Scores get an interval over test rows: rows are drawn again, the same for all methods and stages, and every metric is computed
of each draw. Adapters and costs have no rows; their interval is the range over seeds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from claim_evidence import Evidence, Floats, Table

from clora_cli.data.known_tasks import canonical
from clora_cli.model.attribution import spearman
from clora_cli.store.costs import Cost

__all__ = ["KINDS", "Measured"]


@dataclass(frozen=True)
class Measured:
    """A measurement.

    Attributes:
        value: The estimate.
        low: The lower end of its interval.
        high: The upper end.
        deviation: Its standard deviation over seeds; NaN for fewer than two.
        seeds: The number of seeds.
        unit: ``points``, ``times``, ``%`` or ``""``.
    """

    value: float
    low: float
    high: float
    deviation: float
    seeds: int
    unit: str


def gap(evidence: Evidence, here: Mapping[str, str], tasks: int) -> Measured | None:
    """A metric of one method minus that of another."""
    if here["gap"] == "order-spread":
        tables = [evidence.of_scores("average-performance", here[side], tasks) for side in ("of", "against")]
        spreads = [_spread(table) for table in _in_common(*tables)]
        if any(spread is None for spread in spreads):
            return None
        return _over_draws(spreads[0] - spreads[1], [])
    first, second = (evidence.of_scores(here["gap"], here[side], tasks) for side in ("of", "against"))
    return _contrast(first, second, np.subtract, "points")


def ratio(evidence: Evidence, here: Mapping[str, str], tasks: int) -> Measured | None:
    """A measure of one method's adapters over that of another's."""
    first, second = (evidence.of_adapters(here["ratio"], here[side], tasks) for side in ("of", "against"))
    return _contrast(first, second, np.divide, "times")


def part(evidence: Evidence, here: Mapping[str, str], tasks: int) -> Measured | None:
    """A share of a LoRA that tasks have in common, percent."""
    idle_or_largest = [
        idle if here["part"] == "idle" else largest for idle, largest in evidence.shares(here["of"], tasks)
    ]
    return _range([100 * share for share in idle_or_largest], "%")


def growth(evidence: Evidence, here: Mapping[str, str], tasks: int) -> Measured | None:
    """A training's cost at the last task over that at the first, over the same of another method, whose prompts are as long."""

    def grown(costs: Sequence[Cost]) -> float | None:
        first, last = (getattr(cost, here["growth"]) for cost in (costs[0], costs[-1]))
        return last / first if first and last and len(costs) > 1 else None

    return _of_costs(evidence, here, tasks, grown)


def cost(evidence: Evidence, here: Mapping[str, str], tasks: int) -> Measured | None:
    """The cost of the last task's training over that of another method's."""
    return _of_costs(evidence, here, tasks, lambda costs: getattr(costs[-1], here["cost"]))


def correlation(evidence: Evidence, here: Mapping[str, Sequence[str]], tasks: int) -> Measured | None:
    """Spearman's rank correlation of two things over methods, on the orders that all of them have."""
    things = [_over_methods(evidence, what, here["over"], tasks) for what in here["correlation"]]
    if not all(things):
        return None
    width = max(len(value) for thing in things for value in thing)
    one, other = (torch.tensor(np.array([np.broadcast_to(value, width) for value in thing])) for thing in things)
    return _over_draws(np.array([spearman(one[:, draw], other[:, draw]) for draw in range(width)]), [], unit="")


def kinship(evidence: Evidence, here: Mapping[str, str], tasks: int) -> Measured | None:
    """The mean attribution similarity of tasks of one family minus that of tasks of two."""
    differences = []
    for package in evidence.packages(here["of"], tasks):
        sides: dict[bool, list[float]] = {True: [], False: []}
        for member in package.members:
            kept = (member.manifest.raw.get("scores") or {}).get("relations", {}) if member.manifest else {}
            for other, similarity in (pair for relations in kept.values() for pair in relations.items()):
                sides[_family(member.task) == _family(other)].append(similarity)
        if all(sides.values()):
            differences.append(float(np.mean(sides[True]) - np.mean(sides[False])))
    return _range(differences, "")


KINDS: Mapping[str, Callable[[Evidence, Mapping[str, Any], int], Measured | None]] = {
    function.__name__: function for function in (gap, ratio, part, growth, cost, correlation, kinship)
}


def _family(task: str) -> str:
    known = canonical(task)
    return known.family if known else task


def _over_methods(evidence: Evidence, what: str, names: Sequence[str], tasks: int) -> list[Floats]:
    """Return a metric or a measure of each method; nothing if they have no order in common."""
    source = evidence.of_adapters if " " in what else evidence.of_scores
    tables = _in_common(*(source(what, name, tasks) for name in names))
    return [_average(table) for table in tables] if all(tables) else []


def _of_costs(
    evidence: Evidence, here: Mapping[str, str], tasks: int, function: Callable[[Sequence[Cost]], float | None]
) -> Measured | None:
    tables = [evidence.trainings(here[side], tasks) for side in ("of", "against")]
    values = [{key: function(costs) for key, costs in table.items()} for table in tables]
    first, second = ({key: np.array([value]) for key, value in table.items() if value} for table in values)
    return _contrast(first, second, np.divide, "times")


def _on(orders: Collection[tuple[str, ...]], table: Table) -> Table:
    return {key: value for key, value in table.items() if key[0] in orders}


def _in_common(*tables: Table) -> list[Table]:
    """Keep the orders that all have; and of an order the seeds that all have learned it with, unless there are none.

    What one seed draws is alike for all methods, and may be worth more than what a method does.
    """
    orders = set.intersection(*({order for order, _ in table} for table in tables))
    shared = set.intersection(*(set(table) for table in tables))
    paired = {order for order, _ in shared}
    return [
        {key: value for key, value in table.items() if key[0] in orders and (key[0] not in paired or key in shared)}
        for table in tables
    ]


def _spread(table: Table) -> Floats | None:
    by_order = [np.mean(values, axis=0) for values in _by_order(table)]
    return np.std(by_order, axis=0, ddof=1) if len(by_order) > 1 else None


def _by_order(table: Table) -> list[list[Floats]]:
    orders: dict[tuple[str, ...], list[Floats]] = {}
    for (order, _), value in table.items():
        orders.setdefault(order, []).append(value)
    return list(orders.values())


def _average(table: Table) -> Floats:
    """Return the mean over orders of the means over seeds."""
    return np.mean([np.mean(values, axis=0) for values in _by_order(table)], axis=0)


def _contrast(first: Table, second: Table, operation: Callable[..., Floats], unit: str) -> Measured | None:
    """Contrast two methods on the orders that both have, and on their common seeds."""
    first, second = _in_common(first, second)
    if not first:
        return None
    drawn, at_seed = operation(_average(first), _average(second)), _at_seeds(first, second, operation)
    return _over_draws(drawn, at_seed, unit) if len(drawn) > 1 else _range([*at_seed, drawn[0]], unit, at_seed)


def _at_seeds(first: Table, second: Table, operation: Callable[..., Floats]) -> list[float]:
    """Return the contrast at each seed, on the orders that both methods have learned with several; nothing without one."""
    seeds: dict[tuple[str, ...], set[int]] = {}
    for order, seed in first.keys() & second.keys():
        seeds.setdefault(order, set()).add(seed or 0)
    repeated = {order: found for order, found in seeds.items() if len(found) > 1}
    common = sorted(set.intersection(*repeated.values())) if repeated else []
    sides = [
        [
            _average({key: value for key, value in _on(repeated, table).items() if (key[1] or 0) == seed})[0]
            for seed in common
        ]
        for table in (first, second)
    ]
    return [float(operation(*pair)) for pair in zip(*sides, strict=True)]


def _over_draws(drawn: Floats, at_seed: Sequence[float], unit: str = "points") -> Measured:
    low, high = np.percentile(drawn[1:] if len(drawn) > 1 else drawn, [2.5, 97.5])
    return Measured(float(drawn[0]), float(low), float(high), _deviation(at_seed), max(1, len(at_seed)), unit)


def _range(values: Sequence[float], unit: str, at_seed: Sequence[float] | None = None) -> Measured | None:
    """Return the last of some values, or without values at single seeds their mean, within their range."""
    if not values:
        return None
    value = float(np.mean(values)) if at_seed is None else float(values[-1])
    repeated = values if at_seed is None else at_seed
    return Measured(value, float(min(values)), float(max(values)), _deviation(repeated), max(1, len(repeated)), unit)


def _deviation(at_seed: Sequence[float]) -> float:
    return float(np.std(at_seed, ddof=1)) if len(at_seed) > 1 else math.nan
