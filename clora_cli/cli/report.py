"""``clora report`` (layer L4)."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from clora_cli.base import registry
from clora_cli.cli._options import JsonOption, QuietOption, form, writable
from clora_cli.cli._output import Form, Terminal, emit
from clora_cli.options.figure_names import FIGURE_NAMES

__all__ = ["report"]


def _complete_figure(incomplete: str) -> list[str]:
    return [name for name in FIGURE_NAMES if name.startswith(incomplete)]


def report(
    paths: Annotated[
        list[Path],
        typer.Argument(
            help="Scores, routes and cost files, adapters, packages, and folders of them, such as those of clora run.",
            metavar="PATH...",
            show_default=False,
        ),
    ],
    out: Annotated[
        list[Path] | None,
        typer.Option(
            "-o",
            "--out",
            callback=writable,
            help="Also write a file: .html, .md, .tex, .csv, .json, .png, .svg or .pdf; repeatable.",
        ),
    ] = None,
    figure: Annotated[
        str | None,
        typer.Option(
            "--figure",
            metavar="NAME",
            autocompletion=_complete_figure,
            help=f"What to draw into a .png, .svg or .pdf, instead of matrices and curves: {', '.join(FIGURE_NAMES)}.",
        ),
    ] = None,
    compare: Annotated[
        tuple[str, str] | None,
        typer.Option(metavar="METHOD METHOD", help="Tell whether two methods differ, by a paired bootstrap."),
    ] = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Turn what other commands left into tables, figures and one self-contained HTML page.

    Scores of one run become its stage x task matrix; runs of one method and one order of tasks in different packages are
    repetitions, told as mean ± standard deviation. Per-task runs give the scores of training alone that forward transfer
    needs. Adapters add how they collide, how far they move weights and who owns what; routes and cost files their own part.
    With --quiet the average performance of each method.

    Example: clora report scores.json --out report.html
    """
    output = form(json, quiet)
    from clora_cli.presenting.export import report_json
    from clora_cli.presenting.report_file import check_outs, write_reports
    from clora_cli.presenting.report_text import report_text
    from clora_cli.reporting.assembly import make_report
    from clora_cli.reporting.collect import collect

    check_outs(out or (), figure)
    terminal = Terminal(output)
    report = make_report(
        collect(paths),
        pairs=[compare] if compare else [],
        command=shlex.join(["clora", *sys.argv[1:]]),
        progress=terminal,
    )
    for note in (*registry.refusals("metrics"), *report.results.notes, *report.footing):
        terminal.warn(note)
    write_reports(report, out or (), figure)
    brief = "\n".join(f"{average:.2f}" for average in report.averages())
    data = report_json(report) if output is Form.JSON else {}
    emit(output, text=report_text(report, short=True) if output is Form.TEXT else "", data=data, brief=brief)
