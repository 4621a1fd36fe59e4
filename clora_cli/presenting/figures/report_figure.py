"""One figure for a set of runs: a stage x task heat map for each method, and the mean score over stages of all (layer L3)."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from clora_cli.base.errors import OptionError
from clora_cli.presenting.canvas import check_ending, save
from clora_cli.presenting.figures.curves import compose_curves, draw_curves, numbers
from clora_cli.presenting.figures.matrices import draw_matrix, panel_size
from clora_cli.reporting.method_results import Order, Results, Series

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["compose", "compose_matrices", "draw"]

_PAGE = 13.0  # inches: three panels of four tasks, one of fifteen
_MOST = 12  # matrices in one figure; of more, the curves alone are drawn


def draw(results: Results, path: str | Path) -> None:
    """Draw the methods' matrices, means over seeds, and their mean scores over stages into one file, whole or not at all.

    Args:
        results: At least one run. Of more than twelve matrices none is drawn, but the mean scores alone.
        path: The file; its ending, one of ``png svg pdf``, is the format.

    Raises:
        OptionError: If the ending is another, or there is no run.
        CloraError: If the file cannot be written.
    """
    path = Path(path)
    check_ending(path)
    if not results.runs:
        raise OptionError(f"cannot draw {path}: there is no run; name at least one scores file")
    many = len(results.series) > _MOST
    save(path, lambda figure: compose_curves(figure, results) if many else compose(figure, results))


def compose_matrices(figure: Figure, results: Results, order: Order) -> None:
    """Draw the matrices of one order's methods, no wider than a page."""
    _lay_out(figure, results, [one for one in results.series if one.order == order], [], widest=_PAGE)


def compose(figure: Figure, results: Results) -> None:
    """Draw every matrix, and the curves of each order after them."""
    _lay_out(figure, results, results.series, [order for order in results.orders if _has_stages(results, order)])


def _lay_out(
    figure: Figure, results: Results, matrices: list[Series], curves: list[Order], widest: float = 99.0
) -> None:
    """Lay the panels out row by row, as square as they go."""
    from matplotlib.transforms import ScaledTranslation

    panels = len(matrices) + len(curves)
    width, height = panel_size([one.mean for one in matrices])
    across = panels if panels < 4 else 2 if panels == 4 else 3
    across = max(min(across, int(widest / width)), 1)
    down = math.ceil(panels / across)
    figure.set_size_inches(across * width, down * max(height, 3.6 if curves else 1.0))
    axes = figure.subplots(down, across, squeeze=False).flatten()
    several = len(results.orders) > 1 and len({one.order for one in matrices}) > 1
    for number, (axis, one) in enumerate(zip(axes, matrices, strict=False)):
        draw_matrix(axis, one.mean, _title(one, several))
        if number % across:  # its neighbour to the left says it
            axis.set_ylabel("")
        if number + across < len(matrices):
            axis.set_xlabel("")
    for axis, order in zip(axes[len(matrices) :], curves, strict=False):
        draw_curves(axis, [one for one in results.series if one.order == order and one.mean.order], numbers(results))
        axis.set_title(order.label if several else "", fontsize=10, loc="left")
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
    for axis in axes[panels:]:
        axis.set_axis_off()


def _title(one: Series, several: bool) -> str:
    order = f", {one.order.label}" if several else ""
    repeated = f", mean of {len(one.runs)} runs" if len(one.runs) > 1 else ""
    return f"{one.label}{order}{repeated}"


def _has_stages(results: Results, order: Order) -> bool:
    return any(one.order == order and one.mean.order for one in results.series)
