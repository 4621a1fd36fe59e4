"""Where inputs went: heat maps of mean weights, tasks by adapters, over all deciding sites and layer by layer."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from clora_cli.presenting.canvas import CELL, OUTLINE, short
from clora_cli.store.routes import Routes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

__all__ = ["compose_routes"]

_WIDEST = 13.0  # inches of a heat map; many cells are smaller
_NARROWEST, _BROADEST = 1.4, 2.6  # inches of a panel
_LINE = 0.14  # inches from one label to the next
_BASE = "base model"


def compose_routes(figure: Figure, routes: Routes) -> None:
    """Draw the mean weights and, if they are known, those of each part of the sites below.

    Args:
        figure: An empty figure.
        routes: Where the inputs went, at least one of them.
    """
    whole = _with_base(routes, routes.weights)
    panels = {name: _with_base(routes, weights) for name, weights in routes.panels.items()}
    most = max(max(map(max, rows)) for rows in (whole, *panels.values()))
    cell = min(CELL, _WIDEST / len(whole[0])), min(0.8 * CELL, _WIDEST / len(whole))
    size = max(cell[0] * len(whole[0]) + 3.2, 5.5), cell[1] * len(whole) + 2.1
    if not panels:
        figure.set_size_inches(*size)
        _main(figure, routes, whole, most, cell)
        return
    grid = _Grid(panels, size[0], len(whole), len(whole[0]))
    below = grid.down * (grid.height + 0.25) + 0.2
    figure.set_size_inches(max(size[0], grid.across * grid.width), size[1] + below)
    upper, lower = figure.subfigures(2, 1, height_ratios=[size[1], below])  # type: ignore[misc]
    _main(upper, routes, whole, most, cell)
    axes = lower.subplots(grid.down, grid.across, squeeze=False)
    for axis in axes.flatten():
        axis.set_axis_off()
    for name, position in grid.positions.items():
        _panel(axes[position], name, panels[name], most)


def _with_base(routes: Routes, weights: Sequence[Sequence[float]]) -> list[list[float]]:
    """Return weights in percent; if any input abstained, with the base model's share as the last column."""
    rows = [[100 * weight for weight in row] for row in weights]
    return [[*row, max(100 - sum(row), 0)] for row in rows] if any(routes.abstained) else rows


def _main(
    figure: Figure | SubFigure,
    routes: Routes,
    rows: Sequence[Sequence[float]],
    most: float,
    cell: tuple[float, float],
) -> None:
    axis = figure.subplots()
    image = _heat_map(axis, rows, most, linewidth=min(max(4 * min(cell), 0.4), 1.4))
    adapters = [*routes.adapters, _BASE][: len(rows[0])]
    tasks = [f"{short(task) or 'no task'} ({inputs})" for task, inputs in zip(routes.tasks, routes.inputs, strict=True)]
    if cell == (CELL, 0.8 * CELL):
        _write_numbers(axis, rows, most)
    columns = range(0, len(adapters), math.ceil(_LINE / cell[0]))
    names = [short(adapters[column]) for column in columns]
    axis.set_xticks(columns, names, rotation=45, ha="right", rotation_mode="anchor")
    steps = range(0, len(tasks), math.ceil(_LINE / cell[1]))
    axis.set_yticks(steps, [tasks[step] for step in steps])
    axis.tick_params(length=0, labelsize=8)
    axis.set(xlabel="adapter", ylabel="task (inputs)")
    figure.suptitle(_title(routes), x=0.01, ha="left", fontsize=10)
    bar = figure.colorbar(image, ax=axis, pad=0.01, fraction=0.04, aspect=30)
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=0, labelsize=8)


def _title(routes: Routes) -> str:
    settings = routes.settings
    sites = len(settings.get("sites", ()))
    share = f"top {settings['top_k']}" if settings.get("top_k") else "all adapters"
    parts = [short(settings.get("similarity", ""), 40), share, f"temperature {settings.get('temperature', 1):g}"]
    averaged = f", mean over {sites} sites" if sites > 1 else ""
    return f"weights of adapters (%){averaged}\n{', '.join(part for part in parts if part)}"


def _heat_map(axis: Axes, rows: Sequence[Sequence[float]], most: float, linewidth: float) -> Any:
    from matplotlib.patches import Rectangle

    image = axis.imshow(rows, cmap="YlGnBu", vmin=0, vmax=most, aspect="auto", interpolation="nearest")
    for number, row in enumerate(rows):
        corner = (row.index(max(row)) - 0.5, number - 0.5)
        axis.add_patch(Rectangle(corner, 1, 1, fill=False, edgecolor=OUTLINE, linewidth=linewidth, clip_on=False))
    axis.spines[:].set_visible(False)
    return image


def _write_numbers(axis: Axes, rows: Sequence[Sequence[float]], most: float) -> None:
    for number, row in enumerate(rows):
        for column, value in enumerate(row):
            colour = "white" if value > 0.65 * most else "black"
            axis.text(column, number, f"{value:.1f}", ha="center", va="center", fontsize=7, color=colour)


def _panel(axis: Axes, name: str, rows: Sequence[Sequence[float]], most: float) -> None:
    axis.set_axis_on()
    _heat_map(axis, rows, most, linewidth=0.7)
    axis.set_xticks([])
    axis.set_yticks([])
    axis.set_title(short(name, 40), fontsize=7, loc="left", pad=2)


class _Grid:
    """The positions of panels: layers from left to right, line by line; each kind of projection begins a new line.

    Args:
        panels: The panels' names.
        width: The width that is available in any case, in inches.
        rows: The rows of a panel.
        columns: The columns of a panel.
    """

    def __init__(self, panels: Iterable[str], width: float, rows: int, columns: int) -> None:
        kinds: dict[str, list[str]] = {}
        for name in panels:
            kinds.setdefault(name.rpartition(" ")[2], []).append(name)
        longest = max(map(len, kinds.values()))
        width = max(width, _WIDEST if longest > 12 else 7.0)
        lines = math.ceil(longest / int(width / _NARROWEST))
        # A few panels keep their size and leave the rest of the line free.
        self.across = max(math.ceil(longest / lines), int(width / _BROADEST))
        self.width = width / self.across
        self.height = min(max(0.8 * self.width * rows / columns, 0.5), 2 * self.width, 0.3 * rows + 0.2)
        self.positions: dict[str, tuple[int, int]] = {}
        self.down = 0
        for names in kinds.values():
            for number, name in enumerate(names):
                self.positions[name] = (self.down + number // self.across, number % self.across)
            self.down += math.ceil(len(names) / self.across)
