"""Where adapters lie: a plane in which the distances between deltas, and from the base model, are kept as well as it can."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from clora_cli.presenting.canvas import line_style, shared_legend, short

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from torch import Tensor

__all__ = ["compose_plane"]

_NAMED = 24  # adapters whose names are written beside their points


def compose_plane(
    figure: Figure, places: Tensor, packages: Mapping[str, Sequence[str]], kept: float, colours: Mapping[str, int]
) -> None:
    """Draw the base model as a cross and each adapter as a point, those of a package joined in the order of learning.

    Args:
        figure: An empty figure.
        places: Shape (1 + adapter, 2), the base model's first.
        packages: By its label, the tasks of a package, in the order of the rows of ``places``.
        kept: The share of the squared distances that the plane keeps.
        colours: The number of each method's colour; a package of another label gets a further one.
    """
    figure.set_size_inches(5.6, 4.2)
    axis, row = figure.subplots(), 1
    axis.plot(*places[0].tolist(), marker="+", markersize=14, color="black", linestyle="none", label="base model")
    orders = {tuple(tasks) for tasks in packages.values()}
    for number, (label, tasks) in enumerate(packages.items()):
        points = places[row : row + len(tasks)].tolist()
        row += len(tasks)
        style = line_style(colours.get(label, len(colours) + number)) | {"linestyle": ":"}
        axis.plot(*zip(*points, strict=True), markersize=6, linewidth=0.9, label=short(label, 40), **style)
        if len(places) <= _NAMED:
            _name(axis, points, tasks if len(orders) > 1 else [""] * len(tasks))
    if len(orders) == 1 and len(places) <= _NAMED:  # then numbers are enough beside the points
        (order,) = orders
        axis.set_title(
            ", ".join(f"{n} {short(task, 16)}" for n, task in enumerate(order, start=1)), fontsize=8, loc="left"
        )
    axis.set(xlabel=f"first and second direction, which keep {100 * kept:.0f} % of the squared distances")
    axis.set_aspect("equal", adjustable="datalim")
    axis.margins(0.12)
    axis.tick_params(labelsize=7)
    axis.spines[["top", "right"]].set_visible(False)
    shared_legend(figure, [axis])


def _name(axis: Axes, points: Sequence[Sequence[float]], tasks: Sequence[str]) -> None:
    for number, ((x, y), task) in enumerate(zip(points, tasks, strict=True), start=1):
        text = f"{number} {short(task, 18)}".rstrip()
        axis.annotate(text, (x, y), (5, 4), textcoords="offset points", fontsize=7.5)
