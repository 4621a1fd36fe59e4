"""A report as Markdown, for a terminal and for a file."""

from __future__ import annotations

from collections.abc import Iterator

from clora_cli.base.legible import markdown
from clora_cli.presenting.cells import series_title, significance_note
from clora_cli.presenting.markdown_tables import (
    changes_table,
    cost_table,
    general_table,
    group_table,
    matrix_table,
    metrics_tables,
    significance_table,
    stages_tables,
    standings_table,
    sweep_table,
)
from clora_cli.presenting.route_forms import confusion_table
from clora_cli.reporting.assembly import Report

__all__ = ["report_text"]

_MOST = 4  # matrices on a terminal; a file gets all of them


def report_text(report: Report, *, short: bool = False) -> str:
    """Return a report as Markdown, without the sections that it has nothing for.

    Args:
        report: The report.
        short: Leave out the matrices if there are more than four, and what there is for every stage beside them.
    """
    sections = [f"## {title}\n\n{body}" for title, body in _sections(report, short)]
    return "\n".join(sections) or "No scores, routes or costs. The HTML page shows adapters: add --out report.html.\n"


def _sections(report: Report, short: bool) -> Iterator[tuple[str, str]]:
    """Yield titles and bodies."""
    results = report.results
    yield from _methods(report)
    if report.footing:
        yield "Unequal footing", "".join(f"- {markdown(note)}\n" for note in report.footing)
    if report.chosen_pairs:
        note = markdown(significance_note(report.chosen_pairs))
        yield "Significance", f"{significance_table(report.chosen_pairs)}\n{note}\n"
    if not short or len(results.series) <= _MOST:
        for series in results.series:
            title = series_title(series, with_order=len(results.orders) > 1)
            yield markdown(title), matrix_table(series.mean)
    if results.groups:
        yield "Metrics", metrics_tables(results)
    yield from _by_stage(report, short)
    for path, routes in report.material.routes.items():
        yield f"Routing: {markdown(str(path))}", f"```\n{confusion_table(routes)}\n```\n"
    if report.costs:
        yield "Cost", cost_table(report.costs)


def _methods(report: Report) -> Iterator[tuple[str, str]]:
    if len(report.results.groups) > 1 or report.standings.repeated:
        yield "Results", standings_table(report.standings)
    for groups in report.task_groups:
        yield groups.title, group_table(groups)
    for sweep in report.sweeps:
        yield f"Sweep of {markdown(sweep.stem)}", sweep_table(sweep, report.results.orders)


def _by_stage(report: Report, short: bool) -> Iterator[tuple[str, str]]:
    if not short and (tables := stages_tables(report.results)):
        yield "Metrics by stage", tables
    if not short and report.row_changes:
        yield "Rows of earlier tasks", changes_table(report.row_changes)
    if report.general_abilities:
        yield "General ability", general_table(report.general_abilities)
