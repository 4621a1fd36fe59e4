"""The tables of a report in GitHub Markdown."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from clora_cli.base.legible import markdown
from clora_cli.presenting.cells import (
    CHANGE_HEADER,
    CHANGE_NOTE,
    GENERAL_HEADER,
    GENERAL_NOTE,
    MISSING,
    SIGNIFICANCE_HEADER,
    change_cells,
    cost_lines,
    general_cells,
    mean_and_deviation,
    metric_notes,
    metric_rows,
    percent,
    significance_cells,
    stage_rows,
    standings_notes,
    tick,
)
from clora_cli.presenting.group_forms import group_note, group_rows
from clora_cli.presenting.markdown import table
from clora_cli.presenting.sweep_forms import SWEEP_NOTE, sweep_rows
from clora_cli.reporting.bootstrap import Significance
from clora_cli.reporting.cost_rows import CostRow
from clora_cli.reporting.general_ability import GeneralAbility
from clora_cli.reporting.method_results import Order, Results
from clora_cli.reporting.row_changes import TaskChange
from clora_cli.reporting.scored_run import Run
from clora_cli.reporting.standings import TRAITS, Cell, Standings
from clora_cli.reporting.sweeps import Sweep
from clora_cli.reporting.task_groups import GroupTable

__all__ = [
    "changes_table",
    "cost_table",
    "general_table",
    "group_table",
    "matrix_table",
    "metrics_tables",
    "significance_table",
    "stages_tables",
    "standings_table",
    "sweep_table",
]


def matrix_table(run: Run) -> str:
    """Return a run's stage x task matrix, percent, as a Markdown table.

    Rows are stages, with the base model as stage 0 and training alone as the last row if they are known. The diagonal, the
    score right after learning, is bold. The last column is the mean over the tasks learned so far; if all tasks were learned
    at once, as in a merge, over the tasks scored.
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


def standings_table(standings: Standings) -> str:
    """Return the table of methods, the best in bold, with the meaning of its columns below it."""
    blocks = [f"{markdown(block)} " if block else "" for block in standings.blocks]
    titles = [f"{block}{column.title}" for block in blocks for column in standings.columns]
    rows = [
        [markdown(row.label), *map(tick, row.without), str(row.runs), *map(_ranked, row.cells)]
        for row in standings.rows
    ]
    return table(["method", *TRAITS, "runs", *titles], rows) + "\n" + _bullets(standings_notes(standings))


def metrics_tables(results: Results) -> str:
    """Return every metric of every method as Markdown tables, one an order, with the metrics' equations below them."""
    parts = []
    for order in results.orders:
        title = f"### {markdown(order.label)}: {' > '.join(map(markdown, order.tasks))}\n\n"
        header, rows = metric_rows(results, order)
        cells = [list(map(markdown, row)) for row in rows]
        parts.append(title * (len(results.orders) > 1) + table(list(map(markdown, header)), cells))
    return "\n".join(parts) + "\n" + _bullets(metric_notes(results, lambda name: f"`{name}`"))


def stages_tables(results: Results) -> str:
    """Return the metrics after each stage as Markdown tables, one an order; empty without one of several tasks."""
    parts = []
    for order in results.orders:
        header, rows = stage_rows(results, order)
        if len(order.tasks) > 1 and rows:
            title = f"### {markdown(order.label)}\n\n" * (len(results.orders) > 1)
            parts.append(title + table(header, [list(map(markdown, row)) for row in rows], texts=2))
    return "\n".join(parts)


def sweep_table(sweep: Sweep, orders: Sequence[Order]) -> str:
    """Return a sweep as a Markdown table."""
    header, rows = sweep_rows(sweep, orders)
    cells = [list(map(markdown, row)) for row in rows]
    return table(list(map(markdown, header)), cells, texts=len(sweep.settings)) + f"\n{SWEEP_NOTE}\n"


def group_table(groups: GroupTable) -> str:
    """Return scores by group of tasks as a Markdown table."""
    header, rows = group_rows(groups)
    return table(list(map(markdown, header)), [list(map(markdown, row)) for row in rows]) + f"\n{group_note(groups)}\n"


def significance_table(pairs: Sequence[Significance]) -> str:
    """Return how pairs of methods compare as a Markdown table."""
    cells = map(significance_cells, pairs)
    return table(
        SIGNIFICANCE_HEADER, [[markdown(first), markdown(second), *rest] for first, second, *rest in cells], texts=2
    )


def cost_table(rows: Sequence[CostRow]) -> str:
    """Return what methods cost as a Markdown table."""
    header, *lines = cost_lines(rows)
    return table(header, [[markdown(name), *numbers] for name, *numbers in lines])


def changes_table(rows: Sequence[TaskChange]) -> str:
    """Return what became of rows of earlier tasks as a Markdown table, with the meaning of its columns below it."""
    lines = [[*map(markdown, cells[:3]), *cells[3:]] for cells in map(change_cells, rows)]
    return table(CHANGE_HEADER, lines, texts=3) + f"\n{CHANGE_NOTE}\n"


def general_table(rows: Sequence[GeneralAbility]) -> str:
    """Return what was left of general ability as a Markdown table, with the meaning of its columns below it."""
    lines = [[*map(markdown, cells[:3]), *cells[3:]] for cells in map(general_cells, rows)]
    return table(GENERAL_HEADER, lines, texts=3) + f"\n{GENERAL_NOTE}\n"


def _stages(run: Run) -> Iterator[list[str]]:
    """Yield the rows of the stages that were scored, with the score right after learning in bold."""
    if not all(math.isnan(value) for value in run.zero_shot):
        scores = run.zero_shot[run.scored]
        yield ["0 (base model)", *map(percent, scores), percent(scores.mean()) if run.at_once else ""]
    means = run.matrix[:, run.scored].mean(axis=1) if run.at_once else run.trajectory
    for stage, (task, scores, mean) in enumerate(zip(run.order, run.matrix, means, strict=True)):
        if all(map(math.isnan, scores)):
            continue
        cells = [percent(value) for value in scores]
        if not math.isnan(scores[stage]):
            cells[stage] = f"**{cells[stage]}**"
        yield [f"{stage + 1} {markdown(task)}", *cells[run.scored], percent(mean)]


def _ranked(cell: Cell) -> str:
    text = mean_and_deviation(cell.spread)
    return f"**{text}**" if cell.rank == 1 else text


def _bullets(notes: Sequence[str]) -> str:
    return "".join(f"- {note}\n" for note in notes)
