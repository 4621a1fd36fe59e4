"""One figure of a whole report: a stage x task heat map for each method, and the curves of all methods."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from clora_cli.base.errors import OptionError
from clora_cli.presenting.canvas import check_ending, save, short
from clora_cli.presenting.cells import series_title
from clora_cli.presenting.figures.curves import colour_numbers, compose_curves, draw_curves
from clora_cli.presenting.figures.matrices import draw_matrix, panel_size
from clora_cli.reporting.method_results import Order, Results, Series

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["compose_matrices", "compose_report", "draw"]

_PAGE = 13.0  # inches: three panels of four tasks, one of fifteen
_WIDEST = 99.0  # inches of a figure by itself
_MOST = 12  # matrices in one figure; if there are more, only the curves are drawn


def draw(results: Results, path: str | Path) -> None:
    """Draw the methods' matrices, means over seeds, and their curves into one file, whole or not at all.

    Args:
        results: At least one run. If there are more than twelve matrices, only the curves are drawn.
        path: The file; its ending, one of ``png svg pdf``, is the format.

    Raises:
        OptionError: If the ending is another, or there is no run.
        CloraError: If the file cannot be written.
    """
    path = Path(path)
    check_ending(path)
    if not results.runs:
        raise OptionError(f"cannot draw {path}: there is no run; name at least one scores file", code="nothing-to-draw")
    compose = compose_curves if len(results.series) > _MOST else compose_report
    save(path, lambda figure: compose(figure, results))


def compose_matrices(figure: Figure, results: Results, order: Order) -> None:
    """Draw the matrices of one order's methods, no wider than a page."""
    of_order = [series for series in results.series if series.order == order]
    axes, across = _panels(figure, of_order, curves=0, widest=_PAGE)
    _draw_matrices(axes, of_order, across)


def compose_report(figure: Figure, results: Results) -> None:
    """Draw every matrix, and the curves of each order after them."""
    curves = {
        order: [series for series in results.series if series.order == order and series.mean.order]
        for order in results.orders
    }
    curves = {order: panel for order, panel in curves.items() if panel}
    axes, across = _panels(figure, results.series, len(curves))
    _draw_matrices(axes, results.series, across)
    for axis, (order, panel) in zip(axes[len(results.series) :], curves.items(), strict=True):
        draw_curves(axis, panel, colour_numbers(results))
        axis.set_title(short(order.label, 40) if _several(results.series) else "", fontsize=10, loc="left")
        _legend_below(figure, axis)


def _panels(figure: Figure, matrices: list[Series], curves: int, widest: float = _WIDEST) -> tuple[list[Axes], int]:
    """Lay panels out row by row, as square as possible; return them and the number of panels in a row."""
    panels = len(matrices) + curves
    width, height = panel_size([series.mean for series in matrices])
    across = panels if panels < 4 else 2 if panels == 4 else 3
    across = max(min(across, int(widest / width)), 1)
    down = math.ceil(panels / across)
    figure.set_size_inches(across * width, down * max(height, 3.6 if curves else 1.0))
    axes = list(figure.subplots(down, across, squeeze=False).flatten())
    for axis in axes[panels:]:
        axis.set_axis_off()
    return axes[:panels], across


def _draw_matrices(axes: Iterable[Axes], matrices: list[Series], across: int) -> None:
    for number, (axis, series) in enumerate(zip(axes, matrices, strict=False)):
        draw_matrix(axis, series.mean, series_title(series, with_order=_several(matrices)))
        if number % across:  # the panel to its left has the label
            axis.set_ylabel("")
        if number + across < len(matrices):
            axis.set_xlabel("")


def _several(matrices: Iterable[Series]) -> bool:
    return len({series.order for series in matrices}) > 1


def _legend_below(figure: Figure, axis: Axes) -> None:
    from matplotlib.transforms import ScaledTranslation

    below = axis.transAxes + ScaledTranslation(0, -0.5, figure.dpi_scale_trans)  # clear of the axis label
    axis.legend(
        loc="upper left",
        bbox_to_anchor=(0, 0),
        bbox_transform=below,
        frameon=False,
        borderaxespad=0,
        ncols=2,
        fontsize=8,
    )
