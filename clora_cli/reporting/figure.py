"""One figure for a set of runs: a stage x task heat map each, and the mean score over stages of all (layer L3)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clora_cli.errors import OptionError
from clora_cli.reporting._canvas import CELL, check_ending, save, short
from clora_cli.reporting.runs import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw"]

# Okabe and Ito's palette without its yellow and black: told apart by colour-blind readers, and visible on white.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_MARKERS = "osD^vP"
_STYLES = ("-", "--", "-.", ":")


def draw(runs: Sequence[Run], path: str | Path) -> None:
    """Draw the runs' matrices and their mean scores over stages into one file, whole or not at all.

    Args:
        runs: At least one run.
        path: The file; its ending, one of ``png svg pdf``, is the format.

    Raises:
        OptionError: If the ending is another, or there is no run.
        CloraError: If the file cannot be written.
    """
    path = Path(path)
    check_ending(path)
    if not runs:
        raise OptionError(f"cannot draw {path}: there is no run; name at least one scores file")
    save(path, lambda figure: _compose(figure, runs))


def _compose(figure: Figure, runs: Sequence[Run]) -> None:
    """Lay the panels out row by row, one heat map a run and the curves last, as square as they go."""
    has_curves = any(run.order for run in runs)
    panels = len(runs) + has_curves
    across = panels if panels < 4 else 2 if panels == 4 else 3 if panels <= 9 else 4
    down = math.ceil(panels / across)
    tasks = max(len(run.columns) for run in runs)
    stages = max(len(run.order) + 1 for run in runs)
    lowest = 3.8 if has_curves else 1.0
    figure.set_size_inches(across * max(CELL * tasks + 2.4, 4.6), down * max(CELL * 0.8 * stages + 2.0, lowest))
    axes = figure.subplots(down, across, squeeze=False).flatten()
    for axis, run in zip(axes, runs, strict=False):
        _heat_map(axis, run)
    if has_curves:
        _curves(axes[len(runs)], [run for run in runs if run.order])
    for axis in axes[panels:]:
        axis.set_axis_off()


def _heat_map(axis: Axes, run: Run) -> None:
    import numpy as np
    from matplotlib.patches import Rectangle

    has_base = not np.isnan(run.zero_shot).all()
    values = np.vstack([run.zero_shot, run.matrix]) if has_base else run.matrix
    names = [f"{stage} {short(task)}" for stage, task in enumerate(run.order, start=1)]
    axis.set_facecolor("#dcdcdc")  # what was not evaluated
    axis.imshow(np.ma.masked_invalid(values), cmap="YlGnBu", vmin=0, vmax=100, aspect="auto")
    for (row, column), value in np.ndenumerate(values):
        if not np.isnan(value):
            colour = "white" if value > 65 else "black"
            axis.text(column, row, f"{value:.1f}", ha="center", va="center", fontsize=7.5, color=colour)
    for stage in range(len(run.order)):  # outlined: the score right after learning
        corner = (stage - 0.5, stage + has_base - 0.5)
        axis.add_patch(Rectangle(corner, 1, 1, fill=False, edgecolor="#D55E00", linewidth=1.4))
    if run.unseen and run.order:
        axis.axvline(len(run.order) - 0.5, color="white", linewidth=3)
    axis.set_xticks(range(len(run.columns)), [short(task) for task in run.columns], rotation=45, ha="right")
    axis.set_yticks(range(len(values)), ["0 base model"] * has_base + names)
    axis.tick_params(length=0, labelsize=8)
    axis.spines[:].set_visible(False)
    axis.set(xlabel="score on task (%)", ylabel="after learning")
    axis.set_title(short(run.label, 60), fontsize=10, loc="left")


def _curves(axis: Axes, runs: Sequence[Run]) -> None:
    from matplotlib.ticker import MaxNLocator
    from matplotlib.transforms import ScaledTranslation

    for index, run in enumerate(runs):
        look: dict[str, Any] = {
            "color": _COLOURS[index % len(_COLOURS)],
            "marker": _MARKERS[index % len(_MARKERS)],
            "linestyle": _STYLES[index // len(_COLOURS) % len(_STYLES)],
        }
        final = "" if math.isnan(run.trajectory[-1]) else f": {run.trajectory[-1]:.1f}"
        stages = range(1, len(run.order) + 1)
        axis.plot(stages, run.trajectory, markersize=5, linewidth=1.6, label=short(run.label, 60) + final, **look)
    axis.set_ylim(*_limits([value for run in runs for value in run.trajectory if not math.isnan(value)]))
    longest = max(len(run.order) for run in runs)
    axis.set_xlim(0.5, longest + 0.5)
    axis.xaxis.set_major_locator(MaxNLocator(nbins=16, integer=True, min_n_ticks=1))
    axis.grid(axis="y", color="#dddddd", linewidth=0.8)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
    axis.set(xlabel="tasks learned", ylabel="mean score (%)")
    axis.set_title("mean over the tasks learned so far", fontsize=10, loc="left")
    below = axis.transAxes + ScaledTranslation(0, -0.5, axis.figure.dpi_scale_trans)  # clear of the axis label
    axis.legend(loc="upper left", bbox_to_anchor=(0, 0), bbox_transform=below, frameon=False, borderaxespad=0)


def _limits(values: Sequence[float]) -> tuple[float, float]:
    """Return whole tens around the values, with room for the markers."""
    if not values:
        return 0, 102
    low, high = 10 * math.floor((min(values) - 2) / 10), 10 * math.ceil((max(values) + 1) / 10)
    return max(low, 0) - 1, min(high, 100) + 2
