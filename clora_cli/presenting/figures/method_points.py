"""Methods as points: sparsity against collisions and forgetting, and numbers kept against scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from clora_cli.presenting.canvas import line_style, plain_axis, shared_legend, short
from clora_cli.reporting.trade_offs import MethodPoint

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["compose_collisions", "compose_sizes"]


def compose_collisions(figure: Figure, points: Sequence[MethodPoint], colours: Mapping[str, int]) -> None:
    """Draw GSR against the collision rate, and the collision rate against forgetting, a point for each method.

    Args:
        figure: An empty figure.
        points: The methods, each with its sparsity and collisions.
        colours: The number of each method's colour.
    """
    figure.set_size_inches(7.8, 3.0)
    left, right = figure.subplots(1, 2)
    for point in points:
        if point.sparsity is not None and point.collisions is not None:
            style = line_style(colours[point.label]) | {"linestyle": "none", "markersize": 8}
            left.plot(point.sparsity, 100 * point.collisions, label=short(point.label, 40), **style)
            right.plot(100 * point.collisions, point.forgetting, label=short(point.label, 40), **style)
    left.set(xlabel="GSR of the deltas (1 is dense)", ylabel="collisions with all earlier (%)")
    right.set(xlabel="collisions with all earlier (%)", ylabel="forgetting (points)")
    for axis in (left, right):
        axis.margins(0.12)
        plain_axis(axis)
    shared_legend(figure, [left])


def compose_sizes(figure: Figure, points: Sequence[MethodPoint], colours: Mapping[str, int]) -> None:
    """Draw the average performance over the numbers that all adapters of a method hold.

    Args:
        figure: An empty figure.
        points: The methods.
        colours: The number of each method's colour.
    """
    from matplotlib.ticker import LogLocator, NullFormatter

    figure.set_size_inches(5.4, 3.2)
    axis = figure.subplots()
    for point in points:
        style = line_style(colours[point.label]) | {"linestyle": "none", "markersize": 9}
        axis.plot(point.kept, point.score, label=short(point.label, 40), **style)
    axis.set_xscale("log")
    axis.margins(0.15)
    low, high = axis.get_xlim()
    axis.xaxis.set_major_locator(LogLocator(subs=range(1, 10) if high < 4 * low else (1, 2, 5), numticks=6))
    axis.xaxis.set_major_formatter(lambda value, _: _counted(value))
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.set(xlabel="numbers that all adapters hold", ylabel="average performance (%)")
    plain_axis(axis)
    shared_legend(figure, [axis])


def _counted(value: float) -> str:
    """Write a count in three digits at most: 12 k, 3.4 M."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.3g}"
