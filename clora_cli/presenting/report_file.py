"""A report written to a file, in the form that the file's ending names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from clora_cli.base.errors import OptionError, UnknownNameError
from clora_cli.base.files import to_json, write_text
from clora_cli.options.figure_names import FIGURE_NAMES
from clora_cli.presenting.export import report_csv, report_json
from clora_cli.presenting.figures.named import draw_named
from clora_cli.presenting.figures.report_figure import draw
from clora_cli.presenting.latex import latex_caption, latex_table
from clora_cli.presenting.report_text import report_text
from clora_cli.reporting.assembly import Report

__all__ = ["ENDINGS", "check_out", "check_outs", "write_report", "write_reports"]

_FIGURES = (".png", ".svg", ".pdf")


def check_outs(paths: Sequence[Path], figure: str | None = None) -> None:
    """Refuse files that a report cannot be written to, and a figure that is not there or not drawn into any of them.

    Raises:
        OptionError: As ``check_out``; or if no file takes the figure.
        UnknownNameError: If there is no such figure.
    """
    if figure is not None and figure not in FIGURE_NAMES:
        raise UnknownNameError("figure", figure, FIGURE_NAMES)
    if figure is not None and not any(path.suffix.lower() in _FIGURES for path in paths):
        raise OptionError(f"--figure {figure} is drawn into a file: pass --out FILE.svg", code="option-missing")
    for path in paths:
        check_out(path)


def write_reports(report: Report, paths: Sequence[Path], figure: str | None = None) -> None:
    """Write a report into files, each in the form of its ending; nothing is written if one of them cannot be.

    Args:
        report: The report.
        paths: The files.
        figure: What to draw into figures, one of ``FIGURES``; None for matrices and curves.

    Raises:
        OptionError: If the report has nothing to write into one of them.
        CloraError: If a file cannot be written.
    """
    named = [path for path in paths if figure is not None and path.suffix.lower() in _FIGURES]
    plain = [path for path in paths if path not in named]
    for path in plain:
        check_out(path, report)
    for path in named:
        draw_named(report, figure or "", path)
    for path in plain:
        write_report(report, path)


def check_out(path: Path, report: Report | None = None) -> None:
    """Refuse a file that a report cannot be written to: for its ending or, given the report, because it has no scores.

    Raises:
        OptionError: If the ending is unknown, or the form needs scores and there are none.
    """
    ending = path.suffix.lower()
    if ending not in ENDINGS:
        raise OptionError(
            f"--out {path}: the ending must be {', '.join(ENDINGS[:-1])} or {ENDINGS[-1]}", code="output-ending-unknown"
        )
    if report is not None and not report.results.runs and ending in {*_FIGURES, ".csv", ".tex"}:
        raise OptionError(
            f"--out {path}: there are no scores to write; name a scores file, or write .html or .md",
            code="no-scores-to-write",
        )


def write_report(report: Report, path: Path) -> None:
    """Write a report in the form that the ending names, whole or not at all.

    Raises:
        OptionError: As ``check_out``.
        CloraError: If the file cannot be written.
    """
    check_out(path, report)
    ending = path.suffix.lower()
    if ending in _FIGURES:
        draw(report.results, path)
    else:
        write_text(path, _WRITERS[ending](report))


def _html(report: Report) -> str:
    from clora_cli.presenting.html import report_html

    return report_html(report)


_WRITERS: dict[str, Callable[[Report], str]] = {
    ".html": _html,
    ".md": report_text,
    ".tex": lambda report: latex_table(report.standings, latex_caption(report.standings)),
    ".csv": lambda report: report_csv(report.results),
    ".json": lambda report: to_json(report_json(report)),
}
ENDINGS = (*_WRITERS, *_FIGURES)
