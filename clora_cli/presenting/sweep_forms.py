"""Sweeps as tables and as figures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from clora_cli.presenting.canvas import line_style, plain_axis, shared_legend, short
from clora_cli.presenting.cells import mean_and_deviation
from clora_cli.reporting.method_results import Group, Order
from clora_cli.reporting.standings import BY_STAGE, Column
from clora_cli.reporting.sweeps import Sweep

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["SWEEP_NOTE", "compose_sweep", "sweep_data", "sweep_rows"]

SWEEP_NOTE = "Means over orders of tasks and seeds. A point is a method of its own in all other tables, under its settings' name."
_LEAST = 10.0  # percent points of a panel
_DRAWN = ("average-performance", "forgetting-rate")


def sweep_rows(sweep: Sweep, orders: Sequence[Order]) -> tuple[list[str], list[list[str]]]:
    """Return the header and the rows of a table of a sweep's points: their settings, then the metrics that one of them has."""
    spreads = [[point.group.average(orders, column.metric) for column in BY_STAGE] for point in sweep.points]
    shown = [number for number in range(len(BY_STAGE)) if any(not math.isnan(row[number].mean) for row in spreads)]
    header = [*sweep.settings, *(BY_STAGE[number].title for number in shown)]
    pairs = zip(sweep.points, spreads, strict=True)
    return header, [[*point.values, *(mean_and_deviation(row[number]) for number in shown)] for point, row in pairs]


def sweep_data(sweep: Sweep) -> dict[str, Any]:
    """Return a sweep as JSON data: its settings, and each point's values with the label of its entry among the methods."""
    points = [{"values": list(point.values), "method": point.group.label} for point in sweep.points]
    return {"method": sweep.stem, "settings": list(sweep.settings), "points": points}


def compose_sweep(figure: Figure, sweep: Sweep, orders: Sequence[Order]) -> None:
    """Draw a panel for each metric: the first setting to the right, a line for each combination of the others."""
    columns = [column for column in BY_STAGE if column.metric in _DRAWN]
    figure.set_size_inches(3.4 * len(columns) + 1.6, 3.0)
    axes = figure.subplots(1, len(columns), squeeze=False).flatten()
    for axis, column in zip(axes, columns, strict=True):
        for number, (others, groups) in enumerate(sweep.lines.items()):
            label = ", ".join(f"{name} {value}" for name, value in zip(sweep.settings[1:], others, strict=True))
            _draw(axis, sweep.horizontal, groups, orders, column, {**line_style(number), "label": short(label, 40)})
        axis.set_title(f"{column.title} {'↑' if column.rises else '↓'}", fontsize=10, loc="left")
        common, values = _shared_start(sweep.horizontal)
        axis.set_xticks(range(len(values)), [short(value, 12) for value in values])
        axis.set(xlabel=f"{sweep.settings[0]} {common}".rstrip(), ylabel="percent points")
        _widen(axis)
        plain_axis(axis)
    if len(sweep.settings) > 1:
        shared_legend(figure, axes)


def _draw(
    axis: Axes,
    horizontal: Sequence[str],
    groups: Mapping[str, Group],
    orders: Sequence[Order],
    column: Column,
    style: Mapping[str, Any],
) -> None:
    """Draw one line; values stand at equal distances, since most sweeps are in steps of a factor."""
    places = [place for place, value in enumerate(horizontal) if value in groups]
    spreads = [groups[horizontal[place]].average(orders, column.metric) for place in places]
    means, deviations = (np.array([getattr(s, name) for s in spreads]) for name in ("mean", "deviation"))
    axis.errorbar(places, means, yerr=np.nan_to_num(deviations), markersize=5, linewidth=1.6, capsize=2, **style)


def _shared_start(values: Sequence[str]) -> tuple[str, list[str]]:
    """Return what all values begin with up to an equals sign, ``density,density=`` of plug-ins' options, and the rest of each."""
    starts = {value.rpartition("=")[0] for value in values}
    return (starts.pop(), [value.rpartition("=")[2] for value in values]) if len(starts) == 1 else ("", list(values))


def _widen(axis: Axes) -> None:
    """Show no less than so many points: a difference of one row is no slope."""
    low, high = axis.get_ylim()
    if (lack := _LEAST - (high - low)) > 0:
        axis.set_ylim(low - lack / 2, high + lack / 2)
