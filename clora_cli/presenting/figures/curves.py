"""The mean score over the tasks learned so far, stage by stage: one line a method, its spread over seeds behind it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from clora_cli.presenting.canvas import look, shared_legend, short, stage_axis
from clora_cli.reporting.method_results import Results, Series

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["compose_curves", "draw_curves", "numbers"]


def numbers(results: Results) -> dict[str, int]:
    """Return each method's number, which is its colour in all figures of a report."""
    return {group.label: number for number, group in enumerate(results.groups)}


def compose_curves(figure: Figure, results: Results) -> None:
    """Draw one panel an order, in one scale, with one legend."""
    panels = [[one for one in results.series if one.order == order and one.mean.order] for order in results.orders]
    shown = [(order, panel) for order, panel in zip(results.orders, panels, strict=True) if panel]
    across = min(len(shown), 3)
    down = math.ceil(len(shown) / across)
    figure.set_size_inches(6.4 if len(shown) == 1 else 3.4 * across + 1.2, (3.6 if len(shown) == 1 else 3.0) * down)
    axes = figure.subplots(down, across, squeeze=False, sharey=True).flatten()
    for axis, (order, panel) in zip(axes, shown, strict=False):
        draw_curves(axis, panel, numbers(results))
        axis.set_title(short(order.label, 40) if len(shown) > 1 else "", fontsize=10, loc="left")
        axis.set_ylim(*_limits([one for _, panel in shown for one in panel]))
    for axis in axes[len(shown) :]:
        axis.set_axis_off()
    shared_legend(figure, axes)


def draw_curves(axis: Axes, series: Sequence[Series], colours: Mapping[str, int]) -> None:
    """Draw the lines of one order's methods."""
    for one in series:
        style = look(colours[one.label])
        stages = range(1, len(one.mean.order) + 1)
        mean, deviation = one.mean.trajectory, one.deviation
        axis.plot(stages, mean, markersize=5, linewidth=1.6, label=short(one.label, 40), **style)
        axis.fill_between(stages, mean - deviation, mean + deviation, color=style["color"], alpha=0.12, linewidth=0)
    longest = max(len(one.mean.order) for one in series)
    axis.set_ylim(*_limits(series))
    axis.set_xlim(0.5, longest + 0.5)
    stage_axis(axis)
    axis.set(xlabel="tasks learned", ylabel="mean score so far (%)")


def _limits(series: Sequence[Series]) -> tuple[float, float]:
    """Return whole tens around the values, with room for the markers."""
    ends = [one.mean.trajectory + sign * one.deviation for one in series for sign in (-1, 1)]
    values = [
        value for each in (*ends, *(one.mean.trajectory for one in series)) for value in each if not math.isnan(value)
    ]
    if not values:
        return 0, 102
    low, high = 10 * math.floor((min(values) - 2) / 10), 10 * math.ceil((max(values) + 1) / 10)
    return max(low, 0) - 1, min(high, 100) + 2
