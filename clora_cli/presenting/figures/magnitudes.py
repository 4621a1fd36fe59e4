"""How far each adapter moves the weights: histograms of the magnitudes of its deltas' entries."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from clora_cli.presenting.canvas import plain_axis, shared_legend, short
from clora_cli.reporting.shifts import BINS_A_DECADE, HIGHEST, LOWEST, Shift

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["compose_shifts"]

_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")  # mathematics in labels is switched off
_VISIBLE = 0.001  # smaller shares do not widen the axis
_MOST = 8  # adapters named in the legend; more are told apart by a scale of colours


def compose_shifts(figure: Figure, shifts: Mapping[str, Mapping[str, Shift]]) -> None:
    """Draw a panel for each package, a line for each of its adapters, dark ones learned late.

    Args:
        figure: An empty figure.
        shifts: By the package's label, the shift of each adapter by its name, in the order of learning.
    """
    across = min(len(shifts), 3)
    down = math.ceil(len(shifts) / across)
    figure.set_size_inches(max(3.2 * across + 1.6, 4.8), 2.5 * down)
    axes = figure.subplots(down, across, squeeze=False, sharex=True, sharey=True).flatten()
    labels = _labels(list(shifts.values()))
    for number, (axis, (package, by_adapter)) in enumerate(zip(axes, shifts.items(), strict=False)):
        _panel(axis, list(by_adapter.values()), labels)
        axis.set_title(short(package, 40) + _sparsity(list(by_adapter.values())), fontsize=10, loc="left")
        axis.tick_params(labelbottom=number + across >= len(shifts))
    for axis in axes[len(shifts) :]:
        axis.set_axis_off()
    axes[0].set_xlim(*_range([shift for by_adapter in shifts.values() for shift in by_adapter.values()]))
    axes[0].set_ylim(bottom=0)
    figure.supxlabel("|delta| of an entry", fontsize=9)
    figure.supylabel("entries (%)", fontsize=9)
    if len(labels) <= _MOST:
        shared_legend(figure, axes)


def _labels(packages: Sequence[Mapping[str, Shift]]) -> list[str]:
    """Return the legend's labels: the tasks if all packages learned them in the same order, else numbers."""
    orders = [list(by_adapter) for by_adapter in packages]
    longest = max(orders, key=len)
    if all(order == longest[: len(order)] for order in orders):
        return [f"{number} {short(name)}" for number, name in enumerate(longest, start=1)]
    return [f"adapter {number}" for number in range(1, len(longest) + 1)]


def _sparsity(shifts: Sequence[Shift]) -> str:
    zeros = [shift.zeros for shift in shifts]
    return f" ({100 * sum(zeros) / len(zeros):.0f} % zeros)" if max(zeros) > _VISIBLE else ""


def _panel(axis: Axes, shifts: Sequence[Shift], labels: Sequence[str]) -> None:
    from matplotlib import colormaps
    from matplotlib.ticker import NullLocator

    bins = np.arange((HIGHEST - LOWEST) * BINS_A_DECADE)
    middles = 10 ** (LOWEST + (bins + 0.5) / BINS_A_DECADE)
    for number, shift in enumerate(shifts):
        colour = colormaps["viridis_r"](0.15 + 0.85 * number / max(len(labels) - 1, 1))
        axis.plot(middles, 100 * shift.shares, linewidth=1.5, color=colour, label=labels[number])
    axis.set_xscale("log")
    axis.xaxis.set_major_formatter(lambda value, _: f"10{str(round(math.log10(value))).translate(_RAISED)}")
    axis.xaxis.set_minor_locator(NullLocator())
    plain_axis(axis)


def _range(shifts: Sequence[Shift]) -> tuple[float, float]:
    """Return the magnitudes between which nearly all entries lie, in whole decades."""
    visible = np.flatnonzero(np.max([shift.shares for shift in shifts], axis=0) > _VISIBLE)
    if not visible.size:
        return 10.0**LOWEST, 10.0**HIGHEST
    low, high = visible[0] // BINS_A_DECADE, math.ceil((visible[-1] + 1) / BINS_A_DECADE)
    return 10.0 ** (LOWEST + low), 10.0 ** (LOWEST + high)
