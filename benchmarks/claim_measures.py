"""What a claim of a paper says about finished runs, measured: the few kinds of ``claims.yaml``, each one function.

Scores get an interval over test rows: rows are drawn again, the same for all methods and stages, and every metric is computed
of each draw. Adapters and costs have no rows; their interval is the range over seeds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
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
        spreads = [_spread(table) for table in _on_common_orders(*tables)]
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
    """Spearman's rank correlation of two things over methods."""
    columns = [[_one_value(evidence, what, name, tasks) for name in here["over"]] for what in here["correlation"]]
    known = [pair for pair in zip(*columns, strict=True) if all(value is not None for value in pair)]
    if len(known) < 3:
        return None
    width = max(len(value) for pair in known for value in pair)
    wide = torch.tensor(np.array([[np.broadcast_to(value, width) for value in pair] for pair in known]))
    return _over_draws(np.array([spearman(wide[:, 0, draw], wide[:, 1, draw]) for draw in range(width)]), [], unit="")


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


def _one_value(evidence: Evidence, what: str, name: str, tasks: int) -> Floats | None:
    table = evidence.of_adapters(what, name, tasks) if " " in what else evidence.of_scores(what, name, tasks)
    return np.mean(list(table.values()), axis=0) if table else None


def _of_costs(
    evidence: Evidence, here: Mapping[str, str], tasks: int, function: Callable[[Sequence[Cost]], float | None]
) -> Measured | None:
    tables = [evidence.trainings(here[side], tasks) for side in ("of", "against")]
    values = [{key: function(costs) for key, costs in table.items()} for table in tables]
    first, second = ({key: np.array([value]) for key, value in table.items() if value} for table in values)
    return _contrast(first, second, np.divide, "times")


def _on_common_orders(first: Table, second: Table) -> tuple[Table, Table]:
    common = {order for order, _ in first} & {order for order, _ in second}
    return tuple({key: value for key, value in table.items() if key[0] in common} for table in (first, second))


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
    """Contrast two methods on the orders that both have; the deviation is over the seeds that both have."""
    first, second = _on_common_orders(first, second)
    if not first:
        return None
    seeds = sorted({seed for _, seed in first.keys() & second.keys() if seed is not None})
    at_seed = [
        operation(*(_average({k: v for k, v in table.items() if k[1] == seed})[0] for table in (first, second)))
        for seed in seeds
    ]
    drawn = operation(_average(first), _average(second))
    return _over_draws(drawn, at_seed, unit) if len(drawn) > 1 else _range(at_seed or list(drawn), unit, drawn[0])


def _over_draws(drawn: Floats, at_seed: Sequence[float], unit: str = "points") -> Measured:
    low, high = np.percentile(drawn[1:] if len(drawn) > 1 else drawn, [2.5, 97.5])
    deviation = float(np.std(at_seed, ddof=1)) if len(at_seed) > 1 else math.nan
    return Measured(float(drawn[0]), float(low), float(high), deviation, max(1, len(at_seed)), unit)


def _range(values: Sequence[float], unit: str, value: float | None = None) -> Measured | None:
    if not values:
        return None
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 else math.nan
    middle = float(np.mean(values)) if value is None else float(value)
    return Measured(middle, float(min(values)), float(max(values)), deviation, len(values), unit)
