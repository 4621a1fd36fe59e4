"""Training loss over the whole sequence of tasks, step by step, a line for each method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from clora_cli.presenting.canvas import line_style, plain_axis, shared_legend, short
from clora_cli.reporting.training_logs import TrainingLog

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["compose_losses"]

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
    names = [f"{number} {short(log.task, 16)}" for number, log in enumerate(longest, start=1)]
    axis.set_xticks([place + 0.5 for place in range(len(longest))], names, rotation=25 if len(longest) > 4 else 0)
    axis.tick_params(axis="x", length=0)
    axis.set(xlim=(0, len(longest)), ylabel="training loss")
    axis.set_ylim(bottom=0)
    plain_axis(axis)
    shared_legend(figure, [axis])


def _smooth(losses: np.ndarray) -> np.ndarray:
    """Return the mean over a window about each step, narrower at the ends."""
    half = max(len(losses) // (2 * _WINDOW), 1)
    return np.array([np.nanmean(losses[max(at - half, 0) : at + half + 1]) for at in range(len(losses))])
