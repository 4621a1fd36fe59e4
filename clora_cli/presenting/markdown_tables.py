"""Tables in GitHub Markdown (layer L3)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

from clora_cli.base import registry
from clora_cli.base.legible import markdown
from clora_cli.presenting.markdown import table
from clora_cli.reporting.bootstrap import Significance
from clora_cli.reporting.cost_rows import CostRow
from clora_cli.reporting.method_results import Order, Results, Spread
from clora_cli.reporting.scored_run import Floats, Run
from clora_cli.reporting.standings import TRAITS, Place, Standings, standings_notes, written

__all__ = [
    "cost_table",
    "matrix_table",
    "metric_notes",
    "metric_rows",
    "metrics_tables",
    "significance_table",
    "standings_table",
    "tick",
]

Escape = Callable[[str], str]
MISSING = "-"
_TICKS = {True: "✔", False: "✘", None: "?"}


def tick(holds: bool | None) -> str:
    """Return a tick, a cross or a question mark."""
    return _TICKS[holds]


def matrix_table(run: Run) -> str:
    """Return a run's stage x task matrix, percent, as a Markdown table.

    Rows are stages, with the base model alone as stage 0 and training alone as the last row where they are known. The
    diagonal is bold: the score right after learning. The last column is the mean over the tasks learned so far; of what
    learned all at once, such as a merge, over the tasks scored.
    """
    shown, columns = run.scored, run.columns[run.scored]
    rows = list(_stages(run))
    if run.single:
        rows.append(["alone", *(percent(run.single.get(task, math.nan)) for task in columns), ""])
    metrics = set(run.task_metrics) - {""}
    if len(metrics) > 1:
        rows.append(["metric", *(markdown(metric) or MISSING for metric in run.task_metrics[shown]), ""])
    rows.append(["test rows", *(MISSING if math.isnan(count) else f"{count:.0f}" for count in run.counts[shown]), ""])
    unseen = () if run.at_once else run.unseen
    heads = [f"{markdown(task)} (unseen)" if task in unseen else markdown(task) for task in columns]
    corner = f"after stage ({markdown(metrics.pop())}, %)" if len(metrics) == 1 else "after stage (%)"
    return table([corner, *heads, "mean" if run.at_once else "mean so far"], rows)


def _stages(run: Run) -> Iterator[list[str]]:
    if _known(run.zero_shot):
        scores = run.zero_shot[run.scored]
        yield ["0 (base model)", *map(percent, scores), percent(scores.mean()) if run.at_once else ""]
    means = run.matrix[:, run.scored].mean(axis=1) if run.at_once else run.trajectory
    for stage, (task, scores, mean) in enumerate(zip(run.order, run.matrix, means, strict=True)):
        cells = [percent(value) for value in scores]
        if not math.isnan(scores[stage]):
            cells[stage] = f"**{cells[stage]}**"
        yield [f"{stage + 1} {markdown(task)}", *cells[run.scored], percent(mean)]


def standings_table(found: Standings) -> str:
    """Return the table of methods in the papers' form, the best in bold, with what its columns mean below it."""
    blocks = [f"{markdown(block)} " if block else "" for block in found.blocks]
    header = ["method", *TRAITS, "runs", *(f"{block}{column.title}" for block in blocks for column in found.columns)]
    rows = [
        [markdown(row.label), *map(tick, row.without), str(row.runs), *map(_place, row.cells)] for row in found.rows
    ]
    return table(header, rows) + "\n" + "".join(f"- {note}\n" for note in standings_notes(found))


def metrics_tables(results: Results) -> str:
    """Return every metric of every method as Markdown tables, one an order, with the metrics' equations below them."""
    parts = []
    for order in results.orders:
        title = (
            f"### {markdown(order.label)}: {' > '.join(map(markdown, order.tasks))}\n\n"
            if len(results.orders) > 1
            else ""
        )
        header, rows = metric_rows(results, order)
        parts.append(
            title + table([markdown(cell) for cell in header], [[markdown(cell) for cell in row] for row in rows])
        )
    return "\n".join(parts) + "\n" + "".join(f"- {note}\n" for note in metric_notes(results))


def metric_rows(results: Results, order: Order) -> tuple[list[str], list[list[str]]]:
    """Return the header and the rows of a table of every metric of an order's methods.

    A metric that no run has the entries for is not a row of dashes: ``metric_notes`` names it.
    """
    series = [one for one in results.series if one.order == order]
    rows = [[name, *(written(one.metrics[name]) for one in series)] for name in _shown(results)]
    rows.append(["tasks", *(str(len(one.mean.order)) for one in series)])
    rows.append(["runs", *(str(len(one.runs)) for one in series)])
    return ["metric", *(one.label for one in series)], rows


def metric_notes(results: Results) -> list[str]:
    """Return the equations of the metrics that are shown, and the names of those that are not."""
    shown = _shown(results)
    notes = [f"`{name}`: {registry.summary('metrics', name)}" for name in shown]
    if hidden := [f"`{name}`" for name in registry.names("metrics") if name not in shown]:
        notes.append(f"Not shown, since scores that they need are missing: {', '.join(hidden)}.")
    return notes


def _shown(results: Results) -> list[str]:
    names = registry.names("metrics")
    return [name for name in names if any(not math.isnan(series.metrics[name].mean) for series in results.series)]


def significance_table(pairs: Sequence[Significance]) -> str:
    """Return how pairs of methods compare as a Markdown table."""
    return table(SIGNIFICANCE_HEADER, [significance_cells(pair, markdown) for pair in pairs], texts=2)


SIGNIFICANCE_HEADER = ("first", "second", "AP difference", "95 % interval", "p", "tasks", "test rows")


def significance_cells(pair: Significance, escape: Escape) -> list[str]:
    """Return a comparison's cells in the order of ``SIGNIFICANCE_HEADER``."""
    found = pair.estimate
    p_value = "< 0.001" if found.p_value < 0.001 else f"{found.p_value:.3f}"
    interval = f"{found.low:.2f} to {found.high:.2f}"
    names = [escape(pair.first), escape(pair.second)]
    return [*names, f"{found.difference + 0.0:.2f}", interval, p_value, str(pair.tasks), str(pair.rows)]


def cost_table(rows: Sequence[CostRow]) -> str:
    """Return what methods cost as a Markdown table."""
    header, *cells = cost_lines(rows, markdown)
    return table(header, cells)


def cost_lines(rows: Sequence[CostRow], escape: Escape) -> list[list[str]]:
    """Return the header and the lines of a table of what methods cost, without the columns that nobody measured."""
    lines = [list(_COST_HEADER), *(_cost_cells(row, escape) for row in rows)]
    known = [any(cell != MISSING for cell in column[1:]) for column in zip(*lines, strict=True)]
    return [[cell for cell, shown in zip(line, known, strict=True) if shown] for line in lines]


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


def _cost_cells(row: CostRow, escape: Escape) -> list[str]:
    peaks = [MISSING if peak is None else f"{peak / 1e9:.2f}" for peak in (row.peak_memory, row.peak_device)]
    sizes = [_scaled(spread, 1e6) for spread in (row.parameters, row.adapter_bytes)]
    times = (row.train_seconds, row.eval_seconds, row.total_seconds)
    return [escape(row.name), *map(written, times), *peaks, *sizes]


def percent(value: float, digits: int = 1) -> str:
    """Write a percentage; a dash for what is not known."""
    return MISSING if math.isnan(value) else f"{round(value, digits) + 0.0:.{digits}f}"  # + 0.0: never "-0.0"


def _scaled(spread: Spread, unit: float) -> str:
    return MISSING if math.isnan(spread.mean) else f"{spread.mean / unit:.2f}"


def _place(cell: Place) -> str:
    text = written(cell.spread)
    return f"**{text}**" if cell.rank == 1 else text


def _known(values: Floats) -> bool:
    return not all(math.isnan(value) for value in values)
