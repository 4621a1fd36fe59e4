"""Stage x task heat maps."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clora_cli.presenting.canvas import CELL, bare_axis, short
from clora_cli.reporting.scored_run import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw_matrix", "panel_size"]

_LEARNED = "#D55E00"  # what outlines the score right after learning


def panel_size(runs: list[Run]) -> tuple[float, float]:
    """Return the width and height, in inches, of a panel that holds any of some runs' matrices with its labels."""
    tasks = max(len(run.columns) for run in runs)
    stages = max(len(run.order) + 1 for run in runs)
    return max(CELL * tasks + 2.2, 4.0), CELL * 0.8 * stages + 1.7


def draw_matrix(axis: Axes, run: Run, title: str) -> None:
    """Draw a run's matrix, the base model alone above it, the score right after learning outlined."""
    import numpy as np
    from matplotlib.patches import Rectangle

    has_base = not np.isnan(run.zero_shot).all()
    values = (np.vstack([run.zero_shot, run.matrix]) if has_base else run.matrix)[:, run.scored]
    names = [f"{stage} {short(task)}" for stage, task in enumerate(run.order, start=1)]
    axis.set_facecolor("#dcdcdc")  # what was not evaluated
    places = np.arange(values.shape[1] + 1) - 0.5, np.arange(len(values) + 1) - 0.5
    axis.pcolormesh(
        *places, np.ma.masked_invalid(values), cmap="YlGnBu", vmin=0, vmax=100, edgecolors="white", linewidth=0.6
    )
    axis.invert_yaxis()
    for (row, column), value in np.ndenumerate(values):
        if not np.isnan(value):
            colour = "white" if value > 60 else "black"
            axis.text(column, row, f"{value:.1f}", ha="center", va="center", fontsize=7.5, color=colour)
    for stage in range(0 if run.at_once else len(run.order)):
        corner = (stage - 0.5, stage + has_base - 0.5)
        axis.add_patch(Rectangle(corner, 1, 1, fill=False, edgecolor=_LEARNED, linewidth=1.4, clip_on=False))
    if run.unseen and not run.at_once:
        axis.axvline(len(run.order) - 0.5, color="white", linewidth=3)
    tasks = [short(task) for task in run.columns[run.scored]]
    axis.set_xticks(range(len(tasks)), tasks, rotation=45, ha="right", rotation_mode="anchor")
    axis.set_yticks(range(len(values)), ["0 base model"] * has_base + names)
    bare_axis(axis)
    axis.set(xlabel="score on task (%)", ylabel="after learning")
    axis.set_title(short(title, 60), fontsize=10, loc="left")
