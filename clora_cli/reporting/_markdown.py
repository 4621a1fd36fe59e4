"""Markdown tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

__all__ = ["plain", "table"]


def plain(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ")


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table with aligned columns: text left in the first, numbers right in the others."""
    lines = [header, *rows]
    widths = [max(3, *(len(line[column]) for line in lines)) for column in range(len(header))]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return "".join(f"| {' | '.join(_pad(line, widths))} |\n" for line in [lines[0], rule, *lines[1:]])


def _pad(cells: Sequence[str], widths: Sequence[int]) -> list[str]:
    first, *others = [(cell, width) for cell, width in zip(cells, widths, strict=True)]
    return [first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)]
