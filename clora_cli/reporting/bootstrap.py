"""Is one method better than another? A paired bootstrap over test rows (layer L3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clora_cli.base.errors import MismatchError
from clora_cli.reporting.method_results import Group, Order, Series

__all__ = ["Estimate", "Significance", "compare", "paired_bootstrap"]

RESAMPLES = 10_000
_HELD = 1 << 22  # counts in memory at one time: 32 MB
_Rows = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A difference, its interval and its p-value.

    Attributes:
        difference: The estimate.
        low: The lower end of its 95 % interval.
        high: The upper end.
        p_value: Two-sided, in (0, 1].
    """

    difference: float
    low: float
    high: float
    p_value: float


@dataclass(frozen=True)
class Significance:
    """How two methods compare after the last task, on the rows that both were scored on.

    Attributes:
        first: The first method's label.
        second: The second's.
        estimate: Average performance of the first minus that of the second, percent points.
        orders: The labels of the orders that both learned.
        tasks: The number of tasks.
        rows: The number of test rows.
        runs: The number of runs of the first and of the second.
    """

    first: str
    second: str
    estimate: Estimate
    orders: tuple[str, ...]
    tasks: int
    rows: int
    runs: tuple[int, int]


def paired_bootstrap(differences: Sequence[_Rows], *, resamples: int = RESAMPLES, seed: int = 0) -> Estimate:
    """Estimate a sum of means, and how much it would vary over other rows of the same tasks.

    Each stratum is resampled by itself, with replacement, to its own size. The interval lies between the percentiles 2.5 and
    97.5. The p-value is the share of resamples, shifted to a difference of zero, that are at least as far from zero as the
    estimate, which itself counts as one of them: never 0, and 1 for a difference of zero.

    Instead of rows, the count of each distinct value is drawn from a multinomial: the same distribution, at a cost that does
    not grow with the number of rows as long as few values are distinct.

    Args:
        differences: The paired differences of each stratum's rows, shape (row,), at least one.
        resamples: The number of resamples.
        seed: The seed of the random numbers; equal calls give equal results.

    References:
        Efron and Tibshirani, An Introduction to the Bootstrap, 1993, section 13.3 (percentile interval) and algorithm 16.2
        (test of a mean, by moving it to the null hypothesis). Davison and Hinkley, Bootstrap Methods, 1997, equation 4.11.
    """
    generator = np.random.default_rng(seed)
    observed, drawn = 0.0, np.zeros(resamples)
    for rows in differences:
        # Values that differ by rounding alone are equal: means over three seeds may differ in their last bit.
        values, counts = np.unique(np.round(rows, 12), return_counts=True)
        observed += float(values @ counts / len(rows))
        step = max(1, _HELD // len(values))
        for start in range(0, resamples, step):
            size = min(step, resamples - start)
            resampled = generator.multinomial(len(rows), counts / len(rows), size=size)
            drawn[start : start + size] += resampled @ values / len(rows)
    low, high = np.percentile(drawn, [2.5, 97.5])
    further = np.count_nonzero(np.abs(drawn - observed) >= abs(observed) - 1e-12)
    return Estimate(observed, float(low), float(high), (1 + further) / (1 + resamples))


def compare(first: Group, second: Group, *, resamples: int = RESAMPLES, seed: int = 0) -> Significance:
    """Compare the average performance of two methods on the test rows that both were scored on after the last task.

    A row's score is first averaged over a method's runs of one order, whatever their seeds. Average performance is averaged
    over the orders that both methods have, and a row is drawn for all of them at once. The estimate is the difference in
    average performance of these models on other rows of these tasks; how much it would vary if the methods were trained
    again is a matter of the spread over seeds, not of this test.

    Args:
        first: A method.
        second: Another.
        resamples: The number of resamples.
        seed: The seed of the random numbers.

    Raises:
        MismatchError: If they share no order, a file lacks the scores of single rows, or the rows are not the same.
    """
    orders = [order for order in first.series if order in second.series]
    if not orders:
        raise MismatchError(
            f"{first.label} and {second.label} learned no order of tasks in common; nothing to compare",
            code="no-common-task-order",
        )
    differences = _differences(first, second, orders)
    return Significance(
        first.label,
        second.label,
        paired_bootstrap(list(differences.values()), resamples=resamples, seed=seed),
        tuple(order.label for order in orders),
        len(differences),
        sum(map(len, differences.values())),
        (_count(first, orders), _count(second, orders)),
    )


def _differences(first: Group, second: Group, orders: Sequence[Order]) -> dict[str, _Rows]:
    """Return each task's paired differences, percent points, weighted so that the sum of their means is the estimate."""
    weighted: dict[str, _Rows] = {}
    for order in orders:
        firsts, seconds = _rows(first.series[order]), _rows(second.series[order])
        _check_same(firsts, seconds, first.label, second.label)
        for task in order.tasks:
            part = 100 * (firsts[task] - seconds[task]) / len(order.tasks) / len(orders)
            weighted[task] = weighted[task] + part if task in weighted else part
    return weighted


def _rows(series: Series) -> dict[str, _Rows]:
    """Return each row's score, averaged over a series' runs, by task."""
    means = {}
    for task in series.order.tasks:
        by_run = [run.final_rows.get(task, ()) for run in series.runs]
        if not all(by_run):
            raise MismatchError(
                f"the scores of {series.label} on {task} do not hold each row's own; run `clora eval … -o FILE` again",
                code="row-scores-missing",
            )
        if len(set(map(len, by_run))) > 1:
            raise MismatchError(
                f"the runs of {series.label} scored {' and '.join(sorted({str(len(rows)) for rows in by_run}))} rows of {task}; "
                "evaluate all of them with one --test-rows",
                code="scored-rows-differ",
            )
        means[task] = np.mean(by_run, axis=0)
    return means


def _check_same(firsts: Mapping[str, _Rows], seconds: Mapping[str, _Rows], *labels: str) -> None:
    for task in firsts:
        if len(firsts[task]) != len(seconds[task]):
            raise MismatchError(
                f"{labels[0]} was scored on {len(firsts[task])} rows of {task}, {labels[1]} on {len(seconds[task])}; "
                "evaluate both with one --test-rows",
                code="scored-rows-differ",
            )


def _count(group: Group, orders: Sequence[Order]) -> int:
    return sum(len(group.series[order].runs) for order in orders)
