"""Stage x task heat maps."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clora_cli.presenting.canvas import CELL, OUTLINE, bare_axis, short
from clora_cli.reporting.scored_run import Floats, Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw_matrix", "draw_values", "panel_size"]


def panel_size(runs: list[Run]) -> tuple[float, float]:
    """Return the width and height, in inches, of a panel that holds the matrix of any of some runs with its labels."""
    tasks = max(len(run.columns) for run in runs)
    stages = max(len(run.order) + 1 for run in runs)
    return max(CELL * tasks + 2.2, 4.0), CELL * 0.8 * stages + 1.7


def draw_matrix(axis: Axes, run: Run, title: str) -> None:
    """Draw a run's matrix, the base model above it, the score right after learning outlined."""
    import numpy as np

    has_base = not np.isnan(run.zero_shot).all()
    values = (np.vstack([run.zero_shot, run.matrix]) if has_base else run.matrix)[:, run.scored]
    draw_values(axis, values)
    if not run.at_once:
        _outline_learned(axis, len(run.order), first_row=int(has_base))
        if run.unseen:
            axis.axvline(len(run.order) - 0.5, color="white", linewidth=3)
    tasks = [short(task) for task in run.columns[run.scored]]
    stages = [f"{stage} {short(task)}" for stage, task in enumerate(run.order, start=1)]
    axis.set_xticks(range(len(tasks)), tasks, rotation=45, ha="right", rotation_mode="anchor")
    axis.set_yticks(range(len(values)), ["0 base model"] * has_base + stages)
    bare_axis(axis)
    axis.set(xlabel="score on task (%)", ylabel="after learning")
    axis.set_title(short(title, 60), fontsize=10, loc="left")


def draw_values(axis: Axes, values: Floats) -> None:
    """Colour the cells of a table of percentages and write their values; those that were not evaluated stay grey."""
    import numpy as np

    axis.set_facecolor("#dcdcdc")
    edges = np.arange(values.shape[1] + 1) - 0.5, np.arange(len(values) + 1) - 0.5
    axis.pcolormesh(
        *edges, np.ma.masked_invalid(values), cmap="YlGnBu", vmin=0, vmax=100, edgecolors="white", linewidth=0.6
    )
    axis.invert_yaxis()
    for (row, column), value in np.ndenumerate(values):
        if not np.isnan(value):
            colour = "white" if value > 60 else "black"
            axis.text(column, row, f"{value:.1f}", ha="center", va="center", fontsize=7.5, color=colour)


def _outline_learned(axis: Axes, stages: int, first_row: int) -> None:
    from matplotlib.patches import Rectangle

    for stage in range(stages):
        corner = (stage - 0.5, stage + first_row - 0.5)
        axis.add_patch(Rectangle(corner, 1, 1, fill=False, edgecolor=OUTLINE, linewidth=1.4, clip_on=False))
