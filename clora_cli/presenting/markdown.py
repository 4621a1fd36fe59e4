"""Markdown tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

__all__ = ["table"]


def table(header: Sequence[str], rows: Iterable[Sequence[str]], texts: int = 1) -> str:
    """Return a Markdown table with aligned columns: text to the left in the first ``texts``, numbers to the right in the rest.

    Args:
        header: The columns' titles, as Markdown.
        rows: The cells, as Markdown.
        texts: The number of columns that hold text.
    """
    lines = [header, *rows]
    widths = [max(3, *(len(line[column]) for line in lines)) for column in range(len(header))]
    rule = ["-" * width if column < texts else "-" * (width - 1) + ":" for column, width in enumerate(widths)]
    return "".join(f"| {' | '.join(_padded(line, widths, texts))} |\n" for line in [lines[0], rule, *lines[1:]])


def _padded(cells: Sequence[str], widths: Sequence[int], texts: int) -> list[str]:
    columns = enumerate(zip(cells, widths, strict=True))
    return [cell.ljust(width) if column < texts else cell.rjust(width) for column, (cell, width) in columns]
