"""Metrics over the tasks learned so far, after each of them: a panel for each metric, a line for each method."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from clora_cli.presenting.canvas import line_style, shared_legend, short, stage_axis
from clora_cli.presenting.figures.curves import colour_numbers
from clora_cli.reporting.method_results import Order, Results, Series
from clora_cli.reporting.standings import BY_STAGE, Column

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["compose_metric_series"]

_ACROSS = 3


def compose_metric_series(figure: Figure, results: Results, order: Order) -> None:
    """Draw a panel for each metric that a method of one order has after some stage."""
    of_order = [series for series in results.series if series.order == order and series.stages]
    columns = [column for column in BY_STAGE if any(_known(series, column) for series in of_order)]
    across = min(len(columns), _ACROSS)
    down = math.ceil(len(columns) / across)
    figure.set_size_inches(3.0 * across + 1.6, 2.6 * down)
    axes = figure.subplots(down, across, squeeze=False).flatten()
    for axis, column in zip(axes, columns, strict=False):
        _draw(axis, of_order, column, colour_numbers(results))
    for axis in axes[len(columns) :]:
        axis.set_axis_off()
    shared_legend(figure, axes)


def _draw(axis: Axes, of_order: list[Series], column: Column, colours: dict[str, int]) -> None:
    for series in of_order:
        style = line_style(colours[series.label])
        values = [stage[column.metric] for stage in series.stages]
        stages, means = range(1, len(values) + 1), np.array([value.mean for value in values])
        deviations = np.array([value.deviation for value in values])
        axis.plot(stages, means, markersize=4, linewidth=1.4, label=short(series.label, 40), **style)
        axis.fill_between(stages, means - deviations, means + deviations, color=style["color"], alpha=0.12, linewidth=0)
    axis.set_title(f"{column.title} {'↑' if column.rises else '↓'}", fontsize=10, loc="left")
    axis.set(xlabel="tasks learned", ylabel="percent points")
    stage_axis(axis)


def _known(series: Series, column: Column) -> bool:
    return any(not math.isnan(stage[column.metric].mean) for stage in series.stages)
