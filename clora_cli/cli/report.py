"""``clora report`` (layer L4)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clora_cli.cli._options import JsonOption, QuietOption, form
from clora_cli.cli._output import emit
from clora_cli.errors import OptionError

__all__ = ["report"]


def report(
    scores: Annotated[list[Path], typer.Argument(help="Scores files of clora eval.", show_default=False)],
    out: Annotated[
        list[Path] | None,
        typer.Option("-o", "--out", help="Also write a file: .md, .json, .png, .svg or .pdf; repeatable."),
    ] = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Turn scores files into the stage x task matrix, the metrics, tables and a figure.

    Files of one run (same package, method, combination and base model) become one matrix. A per-task run among them
    gives the scores of training alone that forward transfer needs.

    Example: clora report scores.json --out report.md --out report.png
    """
    output = form(json, quiet)
    from clora_cli.files import to_json, write_text
    from clora_cli.reporting import assemble, draw, matrix_table, report_json, summarise, summary_table
    from clora_cli.scores import read_scores

    for path in out or ():
        if path.suffix not in {".md", ".json", ".png", ".svg", ".pdf"}:
            raise OptionError(f"--out {path}: the ending must be .md, .json, .png, .svg or .pdf")
    runs = assemble([read_scores(path) for path in scores])
    text = "\n".join(
        [*(f"## {run.label}\n\n{matrix_table(run)}" for run in runs), f"## Metrics\n\n{summary_table(runs)}"]
    )
    data = report_json(runs)
    for path in out or ():
        if path.suffix == ".md":
            write_text(path, text)
        elif path.suffix == ".json":
            write_text(path, to_json(data))
        else:
            draw(runs, path)
    brief = "\n".join(f"{summarise(run)['average-performance']:.2f}" for run in runs)
    emit(output, text=text, data=data, brief=brief)
