"""How alike states answer: one heat map a run, states by states."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from clora_cli.presenting.canvas import CELL, bare_axis, short
from clora_cli.presenting.figures.matrices import draw_values
from clora_cli.reporting.output_similarity import OutputSimilarity

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["compose_outputs"]

_ACROSS = 3  # panels in a line


def compose_outputs(figure: Figure, similarities: Sequence[OutputSimilarity]) -> None:
    """Draw the share of rows that two states answer alike, a panel for each run, in percent.

    Args:
        figure: An empty figure.
        similarities: At least one run.
    """
    across = min(len(similarities), _ACROSS)
    down = math.ceil(len(similarities) / across)
    most = max(len(each.states) for each in similarities)
    figure.set_size_inches(across * max(CELL * most + 1.7, 2.8), down * (CELL * 0.8 * most + 1.6))
    axes = figure.subplots(down, across, squeeze=False).flatten()
    for axis in axes[len(similarities) :]:
        axis.set_axis_off()
    for axis, each in zip(axes, similarities, strict=False):
        names = [f"{stage} {short(task)}" for stage, task in enumerate(each.states, start=int(bool(each.states[0])))]
        names = names if each.states[0] else ["0 base model", *names[1:]]
        draw_values(axis, each.shares)
        axis.set_xticks(range(len(names)), names, rotation=45, ha="right", rotation_mode="anchor")
        axis.set_yticks(range(len(names)), names)
        axis.set_title(f"{short(each.label, 40)}: rows answered alike (%)", fontsize=9, loc="left")
        bare_axis(axis)
