"""How adapters overlap and differ: for each measure a heat map of all pairs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from clora_cli.presenting.canvas import CELL, bare_axis, save, short
from clora_cli.reporting.differences import COUNTED, MEASURES, Difference, value_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["compose_difference", "draw_difference"]

_BOUNDED = {"cosine", *COUNTED}  # scaled to 1 in every figure, so that figures can be compared
_SIGNED = {"cosine"}  # scaled around zero; all other measures start there
_GAP = 0.25  # cells between the pairs and the column of all earlier adapters
_Cells = Mapping[tuple[int, float], float | None]  # row and column -> value, None if there is none


def draw_difference(difference: Difference, path: str | Path, measure: str | None = None) -> None:
    """Draw heat maps of all pairs, later adapters below, and beside them each adapter against all earlier ones.

    Args:
        difference: The adapters and their measures.
        path: The file; its ending, one of ``png svg pdf``, is the format.
        measure: Draw only this measure; a key of ``MEASURES``.

    Raises:
        OptionError: If the ending is another.
        CloraError: If the file cannot be written.
    """
    measures = [measure] if measure else list(MEASURES)
    save(Path(path), lambda figure: compose_difference(figure, difference, measures))


def compose_difference(figure: Figure, difference: Difference, measures: Sequence[str]) -> None:
    """Fill an empty figure with a panel for each measure, a key of ``MEASURES``."""
    across = min(len(measures), 3)
    down = math.ceil(len(measures) / across)
    count = len(difference.labels)
    width, height = max(CELL * (count + _GAP) + 1.9, 3.4), max(CELL * 0.8 * count + 1.5, 2.2)
    figure.set_size_inches(across * width, down * height)
    for axis, measure in zip(figure.subplots(down, across, squeeze=False).flatten(), measures, strict=True):
        _heat_map(axis, difference, measure)
        threshold = f" (epsilon {difference.survey.epsilon:g})" if measure in COUNTED else ""
        axis.set_title(f"{measure}{threshold}", fontsize=10, loc="left")


def _heat_map(axis: Axes, difference: Difference, measure: str) -> None:
    survey, labels = difference.survey, [short(label) for label in difference.labels]
    count = len(labels)
    cells: dict[tuple[int, float], float | None] = {
        (later - 1, float(earlier)): value_of(survey.pairs[later][earlier], measure)
        for later in range(1, count)
        for earlier in range(later)
    }
    # The pairs alone set the scale: beside the sums over all earlier adapters they would all look alike.
    largest = max((abs(value) for value in cells.values() if value is not None), default=0.0)
    columns: dict[float, str] = {float(number): label for number, label in enumerate(labels[:-1])}
    if count > 2:
        last = count - 1 + _GAP
        columns[last] = "all earlier"
        cells |= {(later - 1, last): value_of(survey.earlier[later], measure) for later in range(1, count)}
    _draw_cells(axis, cells, 1.0 if measure in _BOUNDED else largest or 1.0, signed=measure in _SIGNED)
    axis.set_xlim(-0.5, max(columns) + 0.5)
    axis.set_ylim(count - 1.5, -0.5)
    axis.set_xticks(list(columns), list(columns.values()), rotation=45, ha="right", rotation_mode="anchor")
    axis.set_yticks(range(count - 1), labels[1:])
    bare_axis(axis)


def _draw_cells(axis: Axes, cells: _Cells, most: float, *, signed: bool) -> None:
    from matplotlib import colormaps
    from matplotlib.colors import Normalize
    from matplotlib.patches import Rectangle

    colours, scale = colormaps["RdBu_r" if signed else "YlGnBu"], Normalize(-most if signed else 0, most, clip=True)
    for (row, column), value in cells.items():
        shade = "#dcdcdc" if value is None else colours(scale(value))
        axis.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, facecolor=shade, edgecolor="white", linewidth=0.6))
        if value is not None:
            ink = "white" if abs(value) > 0.65 * most else "black"
            axis.text(column, row, _cell_text(value), ha="center", va="center", fontsize=7, color=ink)


def _cell_text(value: float) -> str:
    """Write a value in at most five characters and a minus sign."""
    size = abs(value)
    if size == 0 or 100 <= size < 99_999:
        return f"{value:.0f}"
    if 1 <= size < 100:
        return f"{value:.3g}"
    if 0.01 <= size < 1:
        return f"{value:.2f}".replace("0.", ".")
    mantissa, exponent = f"{value:.0e}".split("e")
    return f"{mantissa}e{int(exponent)}"
