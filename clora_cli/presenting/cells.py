"""The cells and notes that tables share, as plain text: Markdown, HTML and LaTeX escape them, each in its own way."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from clora_cli.base import registry
from clora_cli.reporting.bootstrap import RESAMPLES, Estimate, Significance
from clora_cli.reporting.cost_rows import CostRow
from clora_cli.reporting.general_ability import GeneralAbility
from clora_cli.reporting.method_results import Order, Results, Series, Spread
from clora_cli.reporting.row_changes import TaskChange
from clora_cli.reporting.standings import AVERAGE, BY_STAGE, TRAITS, Standings

__all__ = [
    "CHANGE_HEADER",
    "CHANGE_NOTE",
    "GENERAL_HEADER",
    "GENERAL_NOTE",
    "MISSING",
    "SIGNIFICANCE_HEADER",
    "change_cells",
    "cost_lines",
    "general_cells",
    "mean_and_deviation",
    "metric_notes",
    "metric_rows",
    "percent",
    "series_title",
    "significance_cells",
    "significance_note",
    "stage_rows",
    "standings_notes",
    "tick",
    "two_decimals",
]

MISSING = "-"
SIGNIFICANCE_HEADER = ("first", "second", "AP difference", "95 % interval", "p", "tasks", "test rows")
_CHANGE = ("change", "95 % interval", "right, now wrong", "wrong, now right")
GENERAL_HEADER = ("run", "after stage", "probe", "before", "after", *_CHANGE, "KL, nats a token", "tokens")
CHANGE_HEADER = ("run", "after stage", "rows of", *_CHANGE, "rows")
CHANGE_NOTE = (
    "All earlier tasks: their rows after the stage against those before it, every row counted alike. A task: its rows after the last "
    f"stage against those right after it was learned. The interval is a paired bootstrap over rows, {RESAMPLES} resamples. Under a "
    "graded metric, right, now wrong counts rows that score less."
)
GENERAL_NOTE = (
    "Before: the base model's score, percent; after: with the adapters of the stage. The interval is a paired bootstrap over the "
    f"probe's rows, {RESAMPLES} resamples. KL: divergence of the next token's distribution from the base model's, 0 for the same model."
)
_TICKS = {True: "✔", False: "✘", None: "?"}
_COST_HEADER = (
    "method",
    "train s/task",
    "eval s/task",
    "whole run s",
    "peak GB",
    "device GB",
    "trained M/task",
    "adapter MB/task",
)


def tick(holds: bool | None) -> str:
    """Return a tick, a cross, or a question mark for what is not known."""
    return _TICKS[holds]


def two_decimals(value: float) -> str:
    """Write a number with two decimals; a dash for NaN."""
    return MISSING if math.isnan(value) else f"{round(value, 2) + 0.0:.2f}"  # + 0.0: never "-0.00"


def percent(value: float, digits: int = 1) -> str:
    """Write a percentage; a dash for NaN."""
    return MISSING if math.isnan(value) else f"{round(value, digits) + 0.0:.{digits}f}"


def mean_and_deviation(spread: Spread) -> str:
    """Write a mean and, if it has one, its deviation, with two decimals; a dash for NaN."""
    mean = two_decimals(spread.mean)
    return mean if mean == MISSING or math.isnan(spread.deviation) else f"{mean} ± {spread.deviation:.2f}"


def series_title(series: Series, *, with_order: bool) -> str:
    """Name a series: its method, its order if there are several, and the number of its runs if they are several."""
    order = f", {series.order.label}" if with_order else ""
    repeated = f", mean of {len(series.runs)} runs" if len(series.runs) > 1 else ""
    return f"{series.label}{order}{repeated}"


def standings_notes(standings: Standings) -> list[str]:
    """Return what the columns and marks of the table of methods mean, sentence by sentence."""
    notes = [f"{column.title}: {registry.summary('metrics', column.metric)}" for column in standings.columns]
    notes.append("✔ " + "; ".join(f"{title}: {meaning}" for title, meaning in TRAITS.items()) + ".")
    if any(cell.rank for cell in standings.cells):
        notes.append("Bold: the best of the methods that learn and need neither earlier rows nor the inputs' task.")
    if standings.repeated:
        notes.append("±: standard deviation over runs that differ in their seed (n - 1 in the denominator).")
    if AVERAGE in standings.blocks:
        notes.append(f"{AVERAGE}: mean of the orders' means, ± the standard deviation of all runs.")
    return notes


def significance_cells(pair: Significance) -> list[str]:
    """Return a comparison's cells in the order of ``SIGNIFICANCE_HEADER``."""
    estimate = pair.estimate
    p_value = "< 0.001" if estimate.p_value < 0.001 else f"{estimate.p_value:.3f}"
    interval = f"{estimate.low:.2f} to {estimate.high:.2f}"
    difference = f"{estimate.difference + 0.0:.2f}"
    return [pair.first, pair.second, difference, interval, p_value, str(pair.tasks), str(pair.rows)]


def general_cells(row: GeneralAbility) -> list[str]:
    """Return the cells of what was left of general ability, in the order of ``GENERAL_HEADER``."""
    kept = row.kept
    scores = [percent(math.nan if score is None else score.value) for score in (kept.before, kept.after)]
    moved = _moved(row.change, kept.lost, kept.gained) if row.change else [MISSING] * 4
    return [
        row.label,
        f"{row.stage} {row.after}",
        row.probe,
        *scores,
        *moved,
        f"{kept.divergence:.4f}",
        str(kept.tokens),
    ]


def change_cells(row: TaskChange) -> list[str]:
    """Return the cells of what became of rows of earlier tasks, in the order of ``CHANGE_HEADER``."""
    change = row.change
    moved = _moved(change.estimate, change.lost, change.gained)
    return [row.label, f"{row.stage} {row.after}", row.task or "all earlier tasks", *moved, str(change.rows)]


def stage_rows(results: Results, order: Order) -> tuple[list[str], list[list[str]]]:
    """Return the header and the rows of a table of metrics after each stage of an order, method by method.

    Metrics that no method has at any stage are left out.
    """
    series_of_order = [series for series in results.series if series.order == order and series.stages]
    shown = [
        column
        for column in BY_STAGE
        if any(not math.isnan(stage[column.metric].mean) for series in series_of_order for stage in series.stages)
    ]
    rows = [
        [series.label, f"{number} {task}", *(mean_and_deviation(stage[column.metric]) for column in shown)]
        for series in series_of_order
        for number, (task, stage) in enumerate(zip(series.mean.order, series.stages, strict=True), start=1)
    ]
    return ["method", "after stage", *(column.title for column in shown)], rows


def significance_note(pairs: Sequence[Significance]) -> str:
    """Return how the numbers in a table of comparisons were computed."""
    orders = ", ".join(dict.fromkeys(order for pair in pairs for order in pair.orders))
    return (
        f"Paired bootstrap over test rows after the last task ({orders}), stratified by task, {RESAMPLES} resamples; rows' "
        "scores are averaged over a method's runs first. p is two-sided and not corrected for the number of pairs."
    )


def metric_rows(results: Results, order: Order) -> tuple[list[str], list[list[str]]]:
    """Return the header and the rows of a table of every metric of an order's methods.

    Metrics that no run has all scores for are left out; ``metric_notes`` names them.
    """
    series_of_order = [series for series in results.series if series.order == order]
    rows = [
        [name, *(mean_and_deviation(series.metrics[name]) for series in series_of_order)] for name in _shown(results)
    ]
    rows.append(["tasks", *(str(len(series.mean.order)) for series in series_of_order)])
    rows.append(["runs", *(str(len(series.runs)) for series in series_of_order)])
    return ["metric", *(series.label for series in series_of_order)], rows


def metric_notes(results: Results, name_as: Callable[[str], str] = str) -> list[str]:
    """Return the equations of the metrics that are shown, and the names of those that are not.

    Args:
        results: The results.
        name_as: Marks a metric's name up.
    """
    shown = _shown(results)
    notes = [f"{name_as(name)}: {registry.summary('metrics', name)}" for name in shown]
    if hidden := [name_as(name) for name in registry.names("metrics") if name not in shown]:
        notes.append(f"Not shown, since scores that they need are missing: {', '.join(hidden)}.")
    return notes


def cost_lines(rows: Sequence[CostRow]) -> list[list[str]]:
    """Return the header and the lines of a table of costs, without the columns that nothing was measured for."""
    lines = [list(_COST_HEADER), *map(_cost_cells, rows)]
    measured = [any(cell != MISSING for cell in column[1:]) for column in zip(*lines, strict=True)]
    return [[cell for cell, is_measured in zip(line, measured, strict=True) if is_measured] for line in lines]


def _moved(change: Estimate, lost: int, gained: int) -> list[str]:
    """Return the cells of a change, in the order of ``_CHANGE``."""
    interval = f"{change.low:.1f} to {change.high:.1f}"
    return [f"{change.difference + 0.0:.1f}", interval, str(lost), str(gained)]


def _shown(results: Results) -> list[str]:
    names = registry.names("metrics")
    return [name for name in names if any(not math.isnan(series.metrics[name].mean) for series in results.series)]


def _cost_cells(row: CostRow) -> list[str]:
    times = (row.train_seconds, row.eval_seconds, row.total_seconds)
    peaks = [MISSING if peak is None else f"{peak / 1e9:.2f}" for peak in (row.peak_memory, row.peak_device)]
    sizes = [two_decimals(spread.mean / 1e6) for spread in (row.parameters, row.adapter_bytes)]
    return [row.name, *map(mean_and_deviation, times), *peaks, *sizes]
