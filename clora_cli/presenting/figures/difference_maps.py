"""A figure of how adapters differ: one heat map of all pairs for each measure (layer L3)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from clora_cli.presenting.canvas import CELL, check_ending, save, short
from clora_cli.reporting.differences import COUNTED, MEASURES, Difference, value_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["check_ending", "compose_difference", "draw_difference"]

_BOUNDED = {"cosine", *COUNTED}  # to 1 in every figure: figures can be compared
_SIGNED = {"cosine"}  # shown about zero; all other measures start there
_GAP = 0.25  # cells between the pairs and the column of all earlier ones


def draw_difference(found: Difference, path: str | Path, measure: str | None = None) -> None:
    """Draw heat maps of all pairs, later adapters below, and of each adapter against all earlier ones beside them.

    Args:
        found: What to draw.
        path: The file; its ending, one of ``png svg pdf``, is the format.
        measure: Draw this measure alone; a key of ``MEASURES``.

    Raises:
        OptionError: If the ending is another.
        CloraError: If the file cannot be written.
    """
    measures = [measure] if measure else list(MEASURES)
    save(Path(path), lambda figure: compose_difference(figure, found, measures))


def compose_difference(figure: Figure, found: Difference, measures: Sequence[str]) -> None:
    """Fill an empty figure with a panel for each measure, a key of ``MEASURES``."""
    across = min(len(measures), 3)
    down = math.ceil(len(measures) / across)
    count = len(found.labels)
    size = max(CELL * (count + _GAP) + 1.9, 3.4), max(CELL * 0.8 * count + 1.5, 2.2)
    figure.set_size_inches(across * size[0], down * size[1])
    for axis, name in zip(figure.subplots(down, across, squeeze=False).flatten(), measures, strict=True):
        earlier = [value_of(entry, name) for entry in found.survey.earlier]
        pairs = [[value_of(entry, name) for entry in row] for row in found.survey.pairs]
        _heat_map(axis, name, pairs, earlier, [short(label) for label in found.labels])
        threshold = f" (epsilon {found.survey.epsilon:g})" if name in COUNTED else ""
        axis.set_title(f"{name}{threshold}", fontsize=10, loc="left")


def _heat_map(
    axis: Axes, name: str, pairs: Sequence[Sequence[float | None]], earlier: Sequence[float | None], labels: list[str]
) -> None:
    from matplotlib import colormaps
    from matplotlib.colors import Normalize
    from matplotlib.patches import Rectangle

    count = len(labels)
    cells = {(k - 1, float(j)): pairs[k][j] for k in range(1, count) for j in range(k)}
    # Sums over all earlier ones do not set the scale: beside them the pairs would all look alike.
    largest = max((abs(value) for value in cells.values() if value is not None), default=0.0)
    most = 1.0 if name in _BOUNDED else largest or 1.0
    if count > 2:
        cells |= {(k - 1, count - 1 + _GAP): earlier[k] for k in range(1, count)}
    colours = colormaps["RdBu_r" if name in _SIGNED else "YlGnBu"]
    scale = Normalize(-most if name in _SIGNED else 0, most, clip=True)
    for (row, column), value in cells.items():
        shade = "#dcdcdc" if value is None else colours(scale(value))
        axis.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, facecolor=shade, edgecolor="white", linewidth=0.6))
        if value is not None:
            dark = abs(value) > 0.65 * most
            text = _cell_text(value)
            axis.text(column, row, text, ha="center", va="center", fontsize=7, color="white" if dark else "black")
    ticks: dict[float, str] = {float(j): labels[j] for j in range(count - 1)}
    if count > 2:
        ticks[count - 1 + _GAP] = "all earlier"
    axis.set_xlim(-0.5, max(ticks) + 0.5)
    axis.set_ylim(count - 1.5, -0.5)
    axis.set_xticks(list(ticks), list(ticks.values()), rotation=45, ha="right", rotation_mode="anchor")
    axis.set_yticks(range(count - 1), labels[1:])
    axis.tick_params(length=0, labelsize=8)
    axis.spines[:].set_visible(False)


def _cell_text(value: float) -> str:
    """Write a value in at most five characters, but for a minus sign."""
    size = abs(value)
    if size == 0 or 100 <= size < 99_999:
        return f"{value:.0f}"
    if 1 <= size < 100:
        return f"{value:.3g}"
    if 0.01 <= size < 1:
        return f"{value:.2f}".replace("0.", ".")
    mantissa, exponent = f"{value:.0e}".split("e")
    return f"{mantissa}e{int(exponent)}"
