"""The mean score over the tasks learned so far, stage by stage: a line for each method, its spread over seeds behind it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from clora_cli.presenting.canvas import line_style, shared_legend, short, stage_axis
from clora_cli.reporting.method_results import Results, Series

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["colour_numbers", "compose_curves", "draw_curves"]


def colour_numbers(results: Results) -> dict[str, int]:
    """Return each method's number, which is its colour in all figures of a report."""
    return {group.label: number for number, group in enumerate(results.groups)}


def compose_curves(figure: Figure, results: Results) -> None:
    """Draw a panel for each order, all in one scale and with one legend."""
    panels = {
        order: [series for series in results.series if series.order == order and series.mean.order]
        for order in results.orders
    }
    panels = {order: panel for order, panel in panels.items() if panel}
    across = min(len(panels), 3)
    down = math.ceil(len(panels) / across)
    figure.set_size_inches(6.4 if len(panels) == 1 else 3.4 * across + 1.2, (3.6 if len(panels) == 1 else 3.0) * down)
    axes = figure.subplots(down, across, squeeze=False, sharey=True).flatten()
    for axis, (order, panel) in zip(axes, panels.items(), strict=False):
        draw_curves(axis, panel, colour_numbers(results))
        axis.set_title(short(order.label, 40) if len(panels) > 1 else "", fontsize=10, loc="left")
        axis.set_ylim(*_limits([series for panel in panels.values() for series in panel]))
    for axis in axes[len(panels) :]:
        axis.set_axis_off()
    shared_legend(figure, axes)


def draw_curves(axis: Axes, panel: Sequence[Series], colours: Mapping[str, int]) -> None:
    """Draw the lines of one order's methods."""
    for series in panel:
        style = line_style(colours[series.label])
        stages = range(1, len(series.mean.order) + 1)
        mean, deviation = series.mean.trajectory, series.deviation
        axis.plot(stages, mean, markersize=5, linewidth=1.6, label=short(series.label, 40), **style)
        axis.fill_between(stages, mean - deviation, mean + deviation, color=style["color"], alpha=0.12, linewidth=0)
    longest = max(len(series.mean.order) for series in panel)
    axis.set_ylim(*_limits(panel))
    axis.set_xlim(0.5, longest + 0.5)
    stage_axis(axis)
    axis.set(xlabel="tasks learned", ylabel="mean score so far (%)")


def _limits(panel: Sequence[Series]) -> tuple[float, float]:
    """Return whole tens around the values, with room for the markers."""
    bands = [series.mean.trajectory + sign * series.deviation for series in panel for sign in (-1, 1)]
    lines = [series.mean.trajectory for series in panel]
    values = [value for points in (*bands, *lines) for value in points if not math.isnan(value)]
    if not values:
        return 0, 102
    low, high = 10 * math.floor((min(values) - 2) / 10), 10 * math.ceil((max(values) + 1) / 10)
    return max(low, 0) - 1, min(high, 100) + 2
