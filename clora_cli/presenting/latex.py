"""The table of methods in LaTeX, for booktabs (layer L3)."""

from __future__ import annotations

import math

from clora_cli.base.legible import legible
from clora_cli.reporting.standings import TRAITS, Place, Standings

__all__ = ["latex_table"]

_SPECIAL = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "|": r"\textbar{}",
    "`": r"\textasciigrave{}",
    "[": "{[}",  # behind the end of a row it would be taken for a distance
    "]": "{]}",
    "*": "{*}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "±": r"$\pm$",
    "Σ": r"$\Sigma$",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "≠": r"$\neq$",
    **{letter: f"\\{letter}" for letter in "&%$#_{}"},
}
_TICKS = {True: r"$\checkmark$", False: r"$\times$", None: "?"}


def latex_table(found: Standings, caption: str = "") -> str:
    """Return a ``table*`` with the best value of each column in bold and the second best underlined.

    Args:
        found: The table.
        caption: Its caption, as plain text; the metrics' equations are a good one.
    """
    width, lead = len(found.columns), 2 + len(TRAITS)
    titles = [f"{escape(column.title)} {_arrow(column.rises)}" for column in found.columns] * len(found.blocks)
    wide = len(found.blocks) > 1
    lines = ["% needs \\usepackage{booktabs,amssymb,graphicx}", r"\begin{table*}", r"\centering", r"\small"]
    lines += [r"\setlength{\tabcolsep}{4pt}", *([r"\resizebox{\textwidth}{!}{%"] if wide else [])]
    lines += [r"\begin{tabular}{l" + "c" * len(TRAITS) + "r" * (1 + width * len(found.blocks)) + "}", r"\toprule"]
    if wide:
        spans = [rf"\multicolumn{{{width}}}{{c}}{{{escape(block)}}}" for block in found.blocks]
        lines.append(" & ".join([*[""] * lead, *spans]).lstrip() + r" \\")
        ends = [lead + width * (number + 1) for number in range(len(found.blocks))]
        lines.append(" ".join(rf"\cmidrule(lr){{{end - width + 1}-{end}}}" for end in ends))
    lines += [" & ".join(["method", *TRAITS, "runs", *titles]) + r" \\", r"\midrule"]
    for row in found.rows:
        cells = [escape(row.label), *(_TICKS[holds] for holds in row.without), str(row.runs), *map(_cell, row.cells)]
        lines.append(" & ".join(cells) + r" \\")
    lines += [r"\bottomrule", r"\end{tabular}" + "}" * wide]
    if caption:
        lines.append(rf"\caption{{{escape(caption)}}}")
    return "\n".join([*lines, r"\end{table*}"]) + "\n"


def escape(text: str) -> str:
    """Return text that LaTeX prints as it is."""
    return "".join(_SPECIAL.get(letter, letter) for letter in legible(text.replace("\n", " ")))


def _arrow(rises: bool) -> str:
    return r"$\uparrow$" if rises else r"$\downarrow$"


def _cell(cell: Place) -> str:
    spread = cell.spread
    if math.isnan(spread.mean):
        return "--"
    mean = f"{round(spread.mean, 2) + 0.0:.2f}"
    mean = {1: rf"\mathbf{{{mean}}}", 2: rf"\underline{{{mean}}}"}.get(cell.rank, mean)
    deviation = "" if math.isnan(spread.deviation) else rf"_{{\pm {spread.deviation:.2f}}}"
    return f"${mean}{deviation}$"
