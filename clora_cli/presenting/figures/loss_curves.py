"""Training loss over the whole sequence of tasks, step by step, a line for each method."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from clora_cli.presenting.canvas import line_style, plain_axis, shared_legend, short
from clora_cli.reporting.training_logs import TrainingLog

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["compose_losses"]

_NAMED = 20  # tasks whose names have room below
_WINDOW = 50  # a line is the mean over so many-th part of a task's steps


def compose_losses(figure: Figure, logs: Mapping[str, Sequence[TrainingLog]], colours: Mapping[str, int]) -> None:
    """Draw one panel: losses smoothed within each task, tasks one after another.

    Args:
        figure: An empty figure.
        logs: By the package's label, the logs of its adapters in the order of learning.
        colours: The number of each method's colour; a package of another label gets a further one.
    """
    longest = max(logs.values(), key=len)
    figure.set_size_inches(min(1.5 * len(longest) + 3.6, 13), 3.0)
    axis = figure.subplots()
    for number, (label, tasks) in enumerate(logs.items()):
        style = line_style(colours.get(label, len(colours) + number)) | {"marker": ""}
        for place, log in enumerate(tasks):
            steps = place + np.array(log.steps) / max(log.steps)
            axis.plot(steps, _smooth(np.array(log.losses)), linewidth=1.3, label=short(label, 40), **style)
    for place in range(1, len(longest)):
        axis.axvline(place, color="#bbbbbb", linewidth=0.8)
    _name_tasks(axis, [log.task for log in longest])
    axis.tick_params(axis="x", length=0)
    axis.set(xlim=(0, len(longest)), ylabel="training loss")
    axis.set_ylim(bottom=0)
    plain_axis(axis)
    shared_legend(figure, [axis])


def _name_tasks(axis: Axes, tasks: Sequence[str]) -> None:
    """Write each task below its part; where parts are too narrow for names, the numbers of some."""
    apart = math.ceil(len(tasks) / _NAMED)
    numbers = range(1, len(tasks) + 1, apart)
    names = [f"{number} {short(tasks[number - 1], 16)}" if apart == 1 else str(number) for number in numbers]
    slant: dict[str, Any] = (
        {"rotation": 25, "ha": "right", "rotation_mode": "anchor"} if 4 < len(tasks) <= _NAMED else {}
    )
    axis.set_xticks([number - 0.5 for number in numbers], names, **slant)


def _smooth(losses: np.ndarray) -> np.ndarray:
    """Return the mean over a window about each step, narrower at the ends; NaN where no loss in it is finite."""
    half = max(len(losses) // (2 * _WINDOW), 1)
    windows = [losses[max(at - half, 0) : at + half + 1] for at in range(len(losses))]
    finite = [window[~np.isnan(window)] for window in windows]
    return np.array([window.mean() if len(window) else np.nan for window in finite])
