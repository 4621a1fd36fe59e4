"""Whether one method is better than another: a paired bootstrap over test rows (layer L3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clora_cli.base.errors import MismatchError
from clora_cli.reporting.method_results import Group, Order, Series

__all__ = ["Estimate", "Significance", "compare", "paired_bootstrap"]

RESAMPLES = 10_000
_HELD = 1 << 22  # counts held at one time: 32 MB
_Rows = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A difference, its interval and its p-value.

    Attributes:
        difference: The estimate itself.
        low: Lower end of the 95 % interval.
        high: Upper end of it.
        p_value: Two-sided, in (0, 1].
    """

    difference: float
    low: float
    high: float
    p_value: float


@dataclass(frozen=True)
class Significance:
    """How two methods compare after the last task.

    Attributes:
        first: The first method's label.
        second: The second's.
        estimate: Average performance of the first minus that of the second, percent points.
        orders: Labels of the orders that both learned.
        tasks: Number of tasks.
        rows: Number of test rows.
        runs: Number of runs of the first and of the second.
    """

    first: str
    second: str
    estimate: Estimate
    orders: tuple[str, ...]
    tasks: int
    rows: int
    runs: tuple[int, int]


def paired_bootstrap(differences: Sequence[_Rows], *, resamples: int = RESAMPLES, seed: int = 0) -> Estimate:
    """Estimate a sum of means, and how far it could have come out otherwise on other rows of the same tasks.

    Each stratum is resampled on its own, with replacement, to its own size. The interval is that of the percentiles 2.5
    and 97.5. The p-value is the share of resamples, moved to a difference of zero, that lie at least as far from zero as
    the estimate does, with the estimate itself counted among them: never 0, and 1 for a difference of zero.

    Resampling rows is drawing how often each distinct value comes up: counts from a multinomial, which is the same
    distribution, at a cost that does not depend on the number of rows where few values are distinct.

    Args:
        differences: For each stratum the rows' paired differences, shape (row,), at least one.
        resamples: Number of resamples.
        seed: Of the random numbers: equal calls give equal results.

    References:
        Efron and Tibshirani, An Introduction to the Bootstrap, 1993, section 13.3 (percentile interval) and algorithm 16.2
        (test of a mean, by moving it to the null hypothesis). Davison and Hinkley, Bootstrap Methods, 1997, equation 4.11.
    """
    generator = np.random.default_rng(seed)
    observed, drawn = 0.0, np.zeros(resamples)
    for rows in differences:
        # Equal up to rounding is equal: the mean of three seeds may end in another last bit.
        values, counts = np.unique(np.round(rows, 12), return_counts=True)
        observed += float(values @ counts / len(rows))
        step = max(1, _HELD // len(values))
        for start in range(0, resamples, step):
            size = min(step, resamples - start)
            found = generator.multinomial(len(rows), counts / len(rows), size=size)
            drawn[start : start + size] += found @ values / len(rows)
    low, high = np.percentile(drawn, [2.5, 97.5])
    further = np.count_nonzero(np.abs(drawn - observed) >= abs(observed) - 1e-12)
    return Estimate(observed, float(low), float(high), (1 + further) / (1 + resamples))


def compare(first: Group, second: Group, *, resamples: int = RESAMPLES, seed: int = 0) -> Significance:
    """Compare two methods by average performance over the test rows that both were scored on after the last task.

    A row's score is averaged over a method's runs of one order first, whatever their seeds; where there are several
    orders, average performance is averaged over those that both have, and a row is drawn for all of them at once. What
    is estimated is then the difference of the methods' average performance, with these models, on other rows of these
    tasks; how much training again would change it is told by the spread over seeds, not by this.

    Args:
        first: A method.
        second: Another.
        resamples: Number of resamples.
        seed: Of the random numbers.

    Raises:
        MismatchError: If they share no order, a file does not hold the rows' scores, or the rows are not the same.
    """
    orders = [order for order in first.series if order in second.series]
    if not orders:
        raise MismatchError(f"{first.label} and {second.label} learned no order of tasks in common; nothing to compare")
    weighted: dict[str, _Rows] = {}
    for order in orders:
        one, other = _rows(first.series[order]), _rows(second.series[order])
        _check_same(one, other, first.label, second.label)
        for task in order.tasks:
            part = 100 * (one[task] - other[task]) / len(order.tasks) / len(orders)
            weighted[task] = weighted[task] + part if task in weighted else part
    estimate = paired_bootstrap(list(weighted.values()), resamples=resamples, seed=seed)
    return Significance(
        first.label,
        second.label,
        estimate,
        tuple(order.label for order in orders),
        len(weighted),
        sum(map(len, weighted.values())),
        (_count(first, orders), _count(second, orders)),
    )


def _rows(series: Series) -> dict[str, _Rows]:
    """Return each row's score, averaged over a series' runs, by task."""
    found = {}
    for task in series.order.tasks:
        each = [run.final_rows.get(task, ()) for run in series.runs]
        if not all(each):
            raise MismatchError(
                f"the scores of {series.label} on {task} do not hold each row's own; run `clora eval … -o FILE` again"
            )
        if len(set(map(len, each))) > 1:
            raise MismatchError(
                f"the runs of {series.label} scored {' and '.join(sorted({str(len(one)) for one in each}))} rows of {task}; "
                "evaluate all of them with one --test-rows"
            )
        found[task] = np.mean(each, axis=0)
    return found


def _check_same(one: Mapping[str, _Rows], other: Mapping[str, _Rows], *labels: str) -> None:
    for task in one:
        if len(one[task]) != len(other[task]):
            raise MismatchError(
                f"{labels[0]} was scored on {len(one[task])} rows of {task}, {labels[1]} on {len(other[task])}; "
                "evaluate both with one --test-rows"
            )


def _count(group: Group, orders: Sequence[Order]) -> int:
    return sum(len(group.series[order].runs) for order in orders)
