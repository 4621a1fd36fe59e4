"""A report as one HTML file that needs nothing else: no script, no network, its figures drawn within it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial

from clora_cli.presenting.cells import (
    CHANGE_HEADER,
    CHANGE_NOTE,
    GENERAL_HEADER,
    GENERAL_NOTE,
    SIGNIFICANCE_HEADER,
    change_cells,
    cost_lines,
    general_cells,
    mean_and_deviation,
    metric_notes,
    metric_rows,
    significance_cells,
    significance_note,
    stage_rows,
    standings_notes,
    tick,
)
from clora_cli.presenting.difference_forms import sampling_note
from clora_cli.presenting.figures.capacity_bars import compose_capacity
from clora_cli.presenting.figures.cost_curves import compose_costs
from clora_cli.presenting.figures.curves import colour_numbers, compose_curves
from clora_cli.presenting.figures.difference_maps import compose_difference
from clora_cli.presenting.figures.interference import compose_interference
from clora_cli.presenting.figures.magnitudes import compose_shifts
from clora_cli.presenting.figures.metric_series import compose_metric_series
from clora_cli.presenting.figures.report_figure import compose_matrices
from clora_cli.presenting.figures.route_maps import compose_routes
from clora_cli.presenting.group_forms import group_note, group_rows
from clora_cli.presenting.page import Drawings, Fold, Heading, Notes, Part, Section, Table, TableCell, page
from clora_cli.presenting.provenance_tables import provenance_parts
from clora_cli.presenting.sweep_forms import SWEEP_NOTE, compose_sweep, sweep_rows
from clora_cli.reporting.anatomy import Anatomy
from clora_cli.reporting.assembly import Report
from clora_cli.reporting.differences import Difference
from clora_cli.reporting.standings import TRAITS, Cell, Standings

__all__ = ["report_html"]

_MANY = 21  # pairs, those of seven methods; a longer table is folded
_PAIRS = ["collision-rate", "opposite-signs"]


def report_html(report: Report) -> str:
    """Return the whole report as one HTML page, without the sections that it has nothing for."""
    drawings = Drawings()
    sections = [
        Section("results", "Results", list(_results(report))),
        Section("task-groups", "Groups of tasks", list(_groups(report))),
        Section("sweeps", "Sweeps", list(_sweeps(report, drawings))),
        Section("significance", "Significance", list(_significance(report))),
        Section("curves", "Scores over stages", list(_curves(report, drawings))),
        Section("matrices", "Every stage on every task", list(_matrices(report, drawings))),
        Section("rows", "Rows of earlier tasks", list(_rows(report))),
        Section("general-ability", "General ability", list(_general(report))),
        Section("routing", "Routing", list(_routing(report, drawings))),
        Section("interference", "Interference between adapters", list(_interference(report, drawings))),
        Section("shifts", "Parameter shift", list(_shifts(report, drawings))),
        Section("capacity", "Capacity", list(_capacity(report, drawings))),
        Section("cost", "Cost", list(_cost(report, drawings))),
        Section("metrics", "All metrics", list(_metrics(report))),
        Section("provenance", "Provenance", provenance_parts(report)),
    ]
    return page("Continual learning report", _lead(report), sections)


def _lead(report: Report) -> str:
    results = report.results
    bases = ", ".join(dict.fromkeys(run.base.id for run in results.runs))
    parts = [
        _counted(len(results.groups), "method"),
        _counted(len(results.runs), "run"),
        _counted(len(results.orders), "order") + " of tasks" if results.orders else "",
        _counted(len(report.material.packages), "package"),
        f"base model {bases}" if bases else "",
    ]
    return ", ".join(part for part in parts if part)


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'s' * (count != 1)}" if count else ""


def _results(report: Report) -> Iterator[Part]:
    standings = report.standings
    if standings.rows:
        yield _standings_table(standings)
        underlined = any(cell.rank == 2 for cell in standings.cells)
        yield Notes(
            [
                *standings_notes(standings),
                *(["Underlined: the second best of them."] if underlined else []),
                *(f"Warning: {note}" for note in report.footing),
                *(f"{order.label}: {' > '.join(order.tasks)}" for order in report.results.orders),
            ]
        )


def _standings_table(standings: Standings) -> Table:
    lead, width = 2 + len(TRAITS), len(standings.columns)
    titles = [f"{column.title} {'↑' if column.rises else '↓'}" for column in standings.columns]
    several = len(standings.blocks) > 1
    return Table(
        header=["method", *TRAITS, "runs", *titles * len(standings.blocks)],
        rows=[[row.label, *map(tick, row.without), str(row.runs), *map(_ranked, row.cells)] for row in standings.rows],
        ticks=range(1, lead - 1),
        blocks=[("", lead), *((block, width) for block in standings.blocks)] if several else [],
    )


def _ranked(cell: Cell) -> TableCell:
    mean, _, deviation = mean_and_deviation(cell.spread).partition(" ± ")
    return TableCell(mean, rank=cell.rank, deviation=deviation)


def _groups(report: Report) -> Iterator[Part]:
    for groups in report.task_groups:
        yield Heading(groups.title)
        yield Table(*group_rows(groups))
        yield Notes([group_note(groups), *(f"{name}: {', '.join(tasks)}" for name, tasks in groups.groups.items())])


def _sweeps(report: Report, drawings: Drawings) -> Iterator[Part]:
    orders = report.results.orders
    for sweep in report.sweeps:
        yield Heading(sweep.stem)
        yield drawings.draw(
            partial(compose_sweep, sweep=sweep, orders=orders),
            f"{sweep.stem} by {', '.join(sweep.settings)}; bars: standard deviation over runs, where there are several.",
        )
        yield Table(*sweep_rows(sweep, orders), texts=range(len(sweep.settings)))
    if report.sweeps:
        yield Notes([SWEEP_NOTE])


def _significance(report: Report) -> Iterator[Part]:
    if report.pairs:
        table = Table(SIGNIFICANCE_HEADER, list(map(significance_cells, report.pairs)), texts=[1])
        many = len(report.pairs) > _MANY
        yield Fold(f"{len(report.pairs)} pairs of methods", [table]) if many else table
        yield Notes([significance_note(report.pairs)])


def _curves(report: Report, drawings: Drawings) -> Iterator[Part]:
    runs = [series.mean for series in report.results.series]
    if any(len(run.order) > 1 and not math.isnan(run.trajectory[-1]) for run in runs):
        bands = " Bands: standard deviation over seeds." if report.standings.repeated else ""
        caption = f"Mean score over the tasks learned so far, after each task.{bands}"
        yield drawings.draw(partial(compose_curves, results=report.results), caption)
    for order in report.results.orders:
        header, rows = stage_rows(report.results, order)
        if len(order.tasks) > 1 and rows:
            name = f", {order.label}" if len(report.results.orders) > 1 else ""
            caption = f"Metrics over the tasks learned so far, after each task{name}."
            yield drawings.draw(partial(compose_metric_series, results=report.results, order=order), caption)
            yield Fold(f"Metrics after each task{name}", [Table(header, rows, texts=[1])])


def _matrices(report: Report, drawings: Drawings) -> Iterator[Part]:
    results = report.results
    for order in results.orders:
        if any(series.order == order for series in results.series):
            name = f", {order.label}" if len(results.orders) > 1 else ""
            caption = (
                f"Score of each stage on each task{name}, percent; outlined: right after learning it; grey: not evaluated. "
                "Means over seeds if there are several."
            )
            yield drawings.draw(partial(compose_matrices, results=results, order=order), caption)


def _rows(report: Report) -> Iterator[Part]:
    if report.row_changes:
        table = Table(CHANGE_HEADER, list(map(change_cells, report.row_changes)), texts=[1, 2])
        many = len(report.row_changes) > _MANY
        yield Fold(f"{len(report.row_changes)} changes", [table]) if many else table
        yield Notes([CHANGE_NOTE])


def _general(report: Report) -> Iterator[Part]:
    if report.general_abilities:
        yield Table(GENERAL_HEADER, list(map(general_cells, report.general_abilities)), texts=[1, 2])
        yield Notes([GENERAL_NOTE])


def _routing(report: Report, drawings: Drawings) -> Iterator[Part]:
    for path, routes in report.material.routes.items():
        if routes.tasks:
            right = f" {routes.macro:.2f} % of inputs reached an adapter of their task (macro)." if routes.macro else ""
            caption = (
                f"{path}: mean weight of each adapter over the inputs of each task.{right} "
                "Outlined: the highest of a row."
            )
            yield drawings.draw(partial(compose_routes, routes=routes), caption)


def _interference(report: Report, drawings: Drawings) -> Iterator[Part]:
    anatomy = report.anatomy
    if not anatomy.differences:
        return
    overview = any(len(difference.labels) > 2 for difference in anatomy.differences.values())
    if overview:
        # Of several estimates, the least certain one is described.
        sampled = max(anatomy.earlier.values(), key=lambda difference: difference.survey.margin)
        caption = (
            "Each new adapter against the sum of all earlier ones: share of the positions at which both entries count "
            f"(left), and at which both count and differ in sign (right); {_counting(anatomy)}. One run of each method."
            f"{_sampling(sampled)}"
        )
        colours = colour_numbers(report.results)
        yield drawings.draw(partial(compose_interference, differences=anatomy.earlier, colours=colours), caption)
    pairs = list(_pairs(anatomy, drawings))
    if overview:
        yield Fold(f"Every pair of adapters, for {_counted(len(pairs), 'package')}", pairs)
    else:
        yield from pairs
    yield Notes(anatomy.notes)


def _pairs(anatomy: Anatomy, drawings: Drawings) -> Iterator[Part]:
    for label, difference in anatomy.differences.items():
        shown, total = len(difference.labels), len(anatomy.earlier[label].labels)
        adapters = "adapters" if shown == total else f"{shown} adapters drawn among {total}"
        caption = f"{label}: every pair of {adapters}; {_counting(anatomy)}.{_sampling(difference)}"
        yield drawings.draw(partial(compose_difference, difference=difference, measures=_PAIRS), caption)


def _counting(anatomy: Anatomy) -> str:
    epsilon = next(iter(anatomy.differences.values())).survey.epsilon
    return f"an entry counts where it exceeds {epsilon:g} of its delta's largest magnitude"


def _sampling(difference: Difference) -> str:
    note = sampling_note(difference.survey)
    return f" {note}." if note else ""


def _shifts(report: Report, drawings: Drawings) -> Iterator[Part]:
    if shifts := report.anatomy.shifts:
        caption = (
            "How far adapters move the weights: magnitudes of the entries of each delta, as shares of all of them, in bins of "
            "an eighth of a decade. One run of each method."
        )
        yield drawings.draw(partial(compose_shifts, shifts=shifts), caption)


def _capacity(report: Report, drawings: Drawings) -> Iterator[Part]:
    if ledgers := report.anatomy.ledgers:
        caption = (
            "Who owns which share of the LoRA that tasks share: entries of lora_B by the task that keeps them, and those "
            "that are idle."
        )
        yield drawings.draw(partial(compose_capacity, ledgers=ledgers), caption)


def _cost(report: Report, drawings: Drawings) -> Iterator[Part]:
    if not report.costs:
        return
    header, *rows = cost_lines(report.costs)
    yield Table(header, rows)
    costs = [cost for steps in report.material.costs.values() for cost in steps]
    if any(cost.step == "train" for cost in costs):
        colours = colour_numbers(report.results)
        caption = "What each further task costs; means over runs."
        yield drawings.draw(partial(compose_costs, costs=costs, colours=colours), caption)


def _metrics(report: Report) -> Iterator[Part]:
    results = report.results
    for order in results.orders:
        if len(results.orders) > 1:
            yield Heading(order.label)
        yield Table(*metric_rows(results, order))
    if results.orders:
        yield Notes(metric_notes(results))
