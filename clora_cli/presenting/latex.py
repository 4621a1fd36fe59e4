"""The table of methods in LaTeX, for booktabs."""

from __future__ import annotations

from clora_cli.base.legible import legible
from clora_cli.presenting.cells import MISSING, mean_and_deviation, standings_notes
from clora_cli.reporting.standings import TRAITS, Cell, Row, Standings

__all__ = ["escape", "latex_caption", "latex_table"]

_SPECIAL = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "|": r"\textbar{}",
    "`": r"\textasciigrave{}",
    "[": "{[}",  # after the end of a row it would be read as a distance
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
_ARROWS = {True: r"$\uparrow$", False: r"$\downarrow$"}
_LEAD = 2 + len(TRAITS)  # columns before the metrics


def latex_table(standings: Standings, caption: str = "") -> str:
    """Return a ``table*`` with the best value of each column in bold and the second best underlined.

    Args:
        standings: The table of methods.
        caption: Its caption, as plain text.
    """
    wide = len(standings.blocks) > 1
    numbers = 1 + len(standings.columns) * len(standings.blocks)
    lines = [
        "% needs \\usepackage{booktabs,amssymb,graphicx}",
        r"\begin{table*}",
        r"\centering",
        r"\small",
        r"\setlength{\tabcolsep}{4pt}",
        *([r"\resizebox{\textwidth}{!}{%"] if wide else []),
        r"\begin{tabular}{l" + "c" * len(TRAITS) + "r" * numbers + "}",
        r"\toprule",
        *(_block_titles(standings) if wide else []),
        _line(["method", *TRAITS, "runs", *_column_titles(standings)]),
        r"\midrule",
        *(_line(_cells(row)) for row in standings.rows),
        r"\bottomrule",
        r"\end{tabular}" + "}" * wide,
        *([rf"\caption{{{escape(caption)}}}"] if caption else []),
        r"\end{table*}",
    ]
    return "\n".join(lines) + "\n"


def latex_caption(standings: Standings) -> str:
    """Return a caption that says what the metrics are, as plain text."""
    meanings = [note.partition(", ")[0] for note in standings_notes(standings)[: len(standings.columns)]]
    return f"{'; '.join(meanings)}; percent."


def escape(text: str) -> str:
    """Return a text that LaTeX prints as it is."""
    return "".join(_SPECIAL.get(letter, letter) for letter in legible(text.replace("\n", " ")))


def _block_titles(standings: Standings) -> list[str]:
    """Return the line of the blocks' titles, and the line of rules below them."""
    width = len(standings.columns)
    spans = [rf"\multicolumn{{{width}}}{{c}}{{{escape(block)}}}" for block in standings.blocks]
    ends = [_LEAD + width * number for number in range(1, len(standings.blocks) + 1)]
    rules = " ".join(rf"\cmidrule(lr){{{end - width + 1}-{end}}}" for end in ends)
    return [_line([*[""] * _LEAD, *spans]).lstrip(), rules]


def _column_titles(standings: Standings) -> list[str]:
    titles = [f"{escape(column.title)} {_ARROWS[column.rises]}" for column in standings.columns]
    return titles * len(standings.blocks)


def _cells(row: Row) -> list[str]:
    return [escape(row.label), *(_TICKS[holds] for holds in row.without), str(row.runs), *map(_ranked, row.cells)]


def _line(cells: list[str]) -> str:
    return " & ".join(cells) + r" \\"


def _ranked(cell: Cell) -> str:
    mean, _, deviation = mean_and_deviation(cell.spread).partition(" ± ")
    if mean == MISSING:
        return "--"
    mean = {1: rf"\mathbf{{{mean}}}", 2: rf"\underline{{{mean}}}"}.get(cell.rank, mean)
    return f"${mean}" + (rf"_{{\pm {deviation}}}$" if deviation else "$")
