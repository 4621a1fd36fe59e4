"""A report as one HTML file that needs nothing else: no script, no network, figures drawn within it (layer L3)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from functools import partial

from clora_cli import __version__
from clora_cli.presenting.figures.capacity_bars import compose_capacity
from clora_cli.presenting.figures.cost_curves import compose_costs
from clora_cli.presenting.figures.curves import compose_curves, numbers
from clora_cli.presenting.figures.difference_maps import compose_difference
from clora_cli.presenting.figures.interference import compose_interference
from clora_cli.presenting.figures.magnitudes import compose_shifts
from clora_cli.presenting.figures.report_figure import compose_matrices
from clora_cli.presenting.figures.route_maps import compose as compose_routes
from clora_cli.presenting.markdown_tables import (
    SIGNIFICANCE_HEADER,
    cost_lines,
    metric_notes,
    metric_rows,
    significance_cells,
    tick,
)
from clora_cli.presenting.page import Figures, Section, escape, fold, notes, page, table
from clora_cli.reporting.assembly import Report, significance_note
from clora_cli.reporting.differences import Difference, sampling_note
from clora_cli.reporting.provenance import provenance
from clora_cli.reporting.standings import TRAITS, Place, standings_notes, written

__all__ = ["report_html"]

_MANY = 21  # pairs, those of seven methods; more of them are folded
_PAIRS = ["collision-rate", "opposite-signs"]


def report_html(report: Report) -> str:
    """Return the whole report as one HTML page; what there is nothing of is left out."""
    figures = Figures()
    sections = [section for section in _sections(report, figures) if section.body]
    return page("Continual learning report", _lead(report), sections, __version__)


def _sections(report: Report, figures: Figures) -> Iterator[Section]:
    yield Section("results", "Results", _results(report))
    yield Section("significance", "Significance", _significance(report))
    yield Section("curves", "Scores over stages", _curves(report, figures))
    yield Section("matrices", "Every stage on every task", _matrices(report, figures))
    yield Section("routing", "Routing", _routing(report, figures))
    yield Section("interference", "Interference between adapters", _interference(report, figures))
    yield Section("shifts", "Parameter shift", _shifts(report, figures))
    yield Section("capacity", "Capacity", _capacity(report, figures))
    yield Section("cost", "Cost", _cost(report, figures))
    yield Section("metrics", "All metrics", _metrics(report))
    yield Section("provenance", "Provenance", provenance(report))


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


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count != 1)}" if count else ""


def _results(report: Report) -> str:
    found = report.standings
    if not found.rows:
        return ""
    lead, width = 2 + len(TRAITS), len(found.columns)
    titles = [f"{column.title} {'↑' if column.rises else '↓'}" for column in found.columns] * len(found.blocks)
    rows = [[escape(row.label), *map(tick, row.without), str(row.runs), *map(_place, row.cells)] for row in found.rows]
    above = [("", lead), *((block, width) for block in found.blocks)] if len(found.blocks) > 1 else []
    shown = table(["method", *TRAITS, "runs", *titles], rows, tick=range(1, lead - 1), above=above)
    orders = [f"{order.label}: {' > '.join(order.tasks)}" for order in report.results.orders]
    second = (
        ["Underlined: the second best of them."] if any(c.rank == 2 for row in found.rows for c in row.cells) else []
    )
    warnings = [f"Warning: {note}" for note in report.footing]
    return shown + notes([*standings_notes(found), *second, *warnings, *orders])


def _place(cell: Place) -> str:
    mean, plus, deviation = written(cell.spread).partition(" ± ")
    text = {1: f"<b>{mean}</b>", 2: f"<u>{mean}</u>"}.get(cell.rank, mean)
    return f'{text}<span class="spread">{plus}{deviation}</span>' if deviation else text


def _significance(report: Report) -> str:
    if not report.pairs:
        return ""
    rows = [significance_cells(pair, escape) for pair in report.pairs]
    shown = table(SIGNIFICANCE_HEADER, rows, text=[1])
    folded = fold(f"{len(rows)} pairs of methods", shown) if len(rows) > _MANY else shown
    return folded + notes([significance_note(report.pairs)])


def _curves(report: Report, figures: Figures) -> str:
    results = report.results
    if not any(len(one.mean.order) > 1 and not math.isnan(one.mean.trajectory[-1]) for one in results.series):
        return ""
    caption = "Mean score over the tasks learned so far, after each task."
    if report.standings.repeated:
        caption += " Bands: standard deviation over seeds."
    return figures.draw(partial(compose_curves, results=results), caption)


def _matrices(report: Report, figures: Figures) -> str:
    results, parts = report.results, []
    for order in results.orders:
        if any(one.order == order for one in results.series):
            caption = (
                f"Score of each stage on each task{f', {order.label}' if len(results.orders) > 1 else ''}, percent"
            )
            caption += (
                "; outlined: right after learning it; grey: not evaluated. Means over seeds where there are several."
            )
            parts.append(figures.draw(partial(compose_matrices, results=results, order=order), caption))
    return "".join(parts)


def _routing(report: Report, figures: Figures) -> str:
    parts = []
    for path, routes in report.material.routes.items():
        if not routes.tasks:
            continue
        right = f" {routes.macro:.2f} % of inputs reached an adapter of their task (macro)." if routes.macro else ""
        caption = (
            f"{path}: mean weight of each adapter over the inputs of each task.{right} Outlined: the highest of a row."
        )
        parts.append(figures.draw(partial(compose_routes, routes=routes), caption))
    return "".join(parts)


def _interference(report: Report, figures: Figures) -> str:
    found, earlier = report.anatomy.differences, report.anatomy.earlier
    if not found:
        return ""
    parts, epsilon = [], next(iter(found.values())).survey.epsilon
    counts = f"an entry counts where it exceeds {epsilon:g} of its delta's largest magnitude"
    if any(len(one.labels) > 2 for one in found.values()):
        caption = (
            "Each new adapter against the sum of all earlier ones: share of the positions at which both entries count "
            f"(left), and at which both count and differ in sign (right); {counts}. One run of each method."
        )
        caption += _sampling(earlier.values())
        colours = numbers(report.results)
        parts.append(figures.draw(partial(compose_interference, found=earlier, colours=colours), caption))
    pairs = [
        figures.draw(
            partial(compose_difference, found=one, measures=_PAIRS),
            f"{label}: every pair {_of_whom(one, earlier[label])}; {counts}.{_sampling([one])}",
        )
        for label, one in found.items()
    ]
    folded = fold(f"Every pair of adapters, for {_counted(len(pairs), 'package')}", "".join(pairs))
    return "".join(parts) + (folded if parts else "".join(pairs)) + notes(report.anatomy.notes)


def _of_whom(pairs: Difference, every: Difference) -> str:
    sampled, whole = len(pairs.labels), len(every.labels)
    return "of adapters" if sampled == whole else f"of {sampled} adapters drawn among {whole}"


def _sampling(found: Iterable[Difference]) -> str:
    """Say how the least sure of some estimates was made."""
    surveys = sorted((one.survey for one in found), key=lambda survey: survey.margin)
    return "".join(f" {note}." for note in sampling_note(surveys[-1]))


def _shifts(report: Report, figures: Figures) -> str:
    found = report.anatomy.shifts
    if not found:
        return ""
    caption = (
        "How far adapters move the weights: magnitudes of the entries of each delta, as shares of all of them, in bins of "
        "an eighth of a decade. One run of each method."
    )
    return figures.draw(partial(compose_shifts, found=found), caption)


def _capacity(report: Report, figures: Figures) -> str:
    found = report.anatomy.ledgers
    if not found:
        return ""
    caption = "Who owns which share of the LoRA that tasks share: entries of lora_B by the task that keeps them, and those that are idle."
    return figures.draw(partial(compose_capacity, found=found), caption)


def _cost(report: Report, figures: Figures) -> str:
    if not report.costs:
        return ""
    header, *rows = cost_lines(report.costs, escape)
    shown = table(header, rows)
    costs = [step for steps in report.material.costs.values() for step in steps]
    colours = numbers(report.results)
    if not any(cost.step == "train" for cost in costs):
        return shown
    caption = "What each further task costs; means over runs."
    return shown + figures.draw(partial(compose_costs, costs=costs, colours=colours), caption)


def _metrics(report: Report) -> str:
    parts = []
    several = len(report.results.orders) > 1
    for order in report.results.orders:
        header, rows = metric_rows(report.results, order)
        title = f"<h3>{escape(order.label)}</h3>\n" if several else ""
        parts.append(title + table(header, [[escape(cell) for cell in row] for row in rows]))
    return "".join(parts) + notes(note.replace("`", "") for note in metric_notes(report.results)) if parts else ""
