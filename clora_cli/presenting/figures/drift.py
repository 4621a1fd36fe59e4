"""How the sum of all deltas moves from task to task: its signed entries, a ridge for each stage."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from clora_cli.presenting.canvas import short
from clora_cli.reporting.signed_shifts import TOP, SignedShifts

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["compose_drift"]

_MOST = 15  # stages that get a ridge each; of more, as many are drawn, evenly spread


def compose_drift(figure: Figure, shifts: Mapping[str, SignedShifts]) -> None:
    """Draw a panel for each package, a ridge for each stage: all entries in grey, the largest of them in colour.

    Args:
        figure: An empty figure.
        shifts: By the package's label.
    """
    stages = max(min(len(shift.shares), _MOST) for shift in shifts.values())
    figure.set_size_inches(3.1 * len(shifts) + 1.0, 0.55 * stages + 1.5)
    axes = figure.subplots(1, len(shifts), squeeze=False)[0]
    for axis, (label, shift) in zip(axes, shifts.items(), strict=True):
        _panel(axis, shift)
        axis.set_title(short(label, 40), fontsize=10, loc="left")
    axes[0].set_ylabel("tasks learned")
    figure.supxlabel(f"entry of the summed deltas; coloured: the largest {100 * TOP:.0f} %", fontsize=9)


def _panel(axis: Axes, shift: SignedShifts) -> None:
    from matplotlib import colormaps

    count = len(shift.shares)
    drawn = np.unique(np.linspace(0, count - 1, min(count, _MOST)).round().astype(int))
    inner = slice(1, -1)  # the outermost bins hold whatever lies beyond
    middles = ((shift.edges[:-1] + shift.edges[1:]) / 2)[inner]
    # The square root keeps the tails visible beside the many entries near zero.
    heights, tops = np.sqrt(shift.shares[drawn][:, inner]), np.sqrt(shift.top[drawn][:, inner])
    scale = 1.35 / max(heights.max(), 1e-12)
    for row, stage in enumerate(drawn):
        base = len(drawn) - 1 - row
        colour = colormaps["viridis_r"](0.15 + 0.85 * row / max(len(drawn) - 1, 1))
        ridge, top = base + scale * heights[row], base + scale * tops[row]
        axis.fill_between(middles, base, ridge, color="#d0d0d0", linewidth=0, zorder=2 * row)
        axis.fill_between(middles, base, top, color=colour, linewidth=0, zorder=2 * row)
        axis.plot(middles, ridge, color="white", linewidth=0.8, zorder=2 * row + 1)
        if stage:
            told = f"{100 * shift.flipped[stage]:.0f} % flipped"
            axis.text(middles[-1], base + 0.3, told, fontsize=7, ha="right", zorder=99)
    axis.set_yticks(range(len(drawn)), [str(stage + 1) for stage in drawn[::-1]])
    axis.axvline(0, color="#888888", linewidth=0.6, zorder=0)
    axis.tick_params(labelsize=8)
    axis.locator_params(axis="x", nbins=5)
    axis.spines[["top", "right", "left"]].set_visible(False)
