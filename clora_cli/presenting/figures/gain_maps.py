"""What each way of combining the same adapters gains on each task over their plain sum."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from clora_cli.presenting.canvas import CELL, bare_axis, short
from clora_cli.reporting.merge_gains import MergeGains

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["compose_gains"]


def compose_gains(figure: Figure, gains: MergeGains) -> None:
    """Draw a heat map, combinations by tasks and their mean, in points; blue gains, red loses."""
    from matplotlib import colormaps
    from matplotlib.colors import Normalize

    values = np.column_stack([gains.gains, gains.gains.mean(1)])
    columns = [*map(short, gains.tasks), "mean"]
    figure.set_size_inches(CELL * (len(columns) + 1) + 2.4, CELL * 0.8 * len(gains.labels) + 1.5)
    axis = figure.subplots()
    most = max(np.nanmax(np.abs(values)), 1.0)
    shades = colormaps["RdBu"](Normalize(-most, most)(values))
    shades[np.isnan(values)] = (0.86, 0.86, 0.86, 1)
    axis.imshow(shades, aspect="auto")
    for (row, column), value in np.ndenumerate(values):
        if not math.isnan(value):
            ink = "white" if abs(value) > 0.65 * most else "black"
            axis.text(column, row, f"{value:+.1f}", ha="center", va="center", fontsize=7.5, color=ink)
    axis.axvline(len(gains.tasks) - 0.5, color="white", linewidth=3)
    axis.set_xticks(range(len(columns)), columns, rotation=45, ha="right", rotation_mode="anchor")
    axis.set_yticks(range(len(gains.labels)), list(map(short, gains.labels)))
    axis.set_title("points over the sum", fontsize=10, loc="left")
    bare_axis(axis)
