"""Each form that a report is written in (layer L3)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from clora_cli.base.errors import OptionError
from clora_cli.base.files import to_json, write_text
from clora_cli.presenting.export import report_csv
from clora_cli.presenting.figures.report_figure import draw
from clora_cli.presenting.latex import latex_table
from clora_cli.reporting.assembly import Report
from clora_cli.reporting.standings import standings_notes

__all__ = ["ENDINGS", "check_out", "write_report"]

FIGURES = (".png", ".svg", ".pdf")


def check_out(path: Path, report: Report | None = None) -> None:
    """Refuse a place that a report cannot be written to: for its ending or, with the report at hand, for what it lacks.

    Raises:
        OptionError: If the ending is unknown, or there are no scores for a form that is about them alone.
    """
    ending = path.suffix.lower()
    if ending not in ENDINGS:
        raise OptionError(f"--out {path}: the ending must be {', '.join(ENDINGS[:-1])} or {ENDINGS[-1]}")
    if report is not None and not report.results.runs and ending in {*FIGURES, ".csv", ".tex"}:
        raise OptionError(f"--out {path}: there are no scores to write; name a scores file, or write .html or .md")


def write_report(report: Report, path: Path) -> None:
    """Write a report in the form that the ending names, whole or not at all.

    Raises:
        OptionError: As ``check_out``.
        CloraError: If the file cannot be written.
    """
    check_out(path, report)
    ending = path.suffix.lower()
    if ending in FIGURES:
        draw(report.results, path)
    else:
        write_text(path, _WRITERS[ending](report))


def _html(report: Report) -> str:
    from clora_cli.presenting.html import report_html

    return report_html(report)


def _latex(report: Report) -> str:
    meanings = [note.partition(", ")[0] for note in standings_notes(report.standings)[: len(report.standings.columns)]]
    return latex_table(report.standings, f"{'; '.join(meanings)}; percent.")


_WRITERS: dict[str, Callable[[Report], str]] = {
    ".html": _html,
    ".md": Report.text,
    ".tex": _latex,
    ".csv": lambda report: report_csv(report.results),
    ".json": lambda report: to_json(report.data()),
}
ENDINGS = (*_WRITERS, *FIGURES)
