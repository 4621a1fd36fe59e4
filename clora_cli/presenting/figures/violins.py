"""How related a method found each new task with the earlier ones: a violin for each stage."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from clora_cli.presenting.canvas import line_style, plain_axis, short

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["compose_relations"]

_FEW = 4  # values below which a violin would show a shape that is not there


def compose_relations(figure: Figure, relations: Mapping[str, Mapping[str, float]]) -> None:
    """Draw every w as a point, and where a stage has enough of them the violin of their distribution, with its median.

    Args:
        figure: An empty figure.
        relations: By task, in the order of learning, w of every earlier task, in [-1, 1].
    """
    figure.set_size_inches(max(0.75 * len(relations) + 1.4, 3.6), 3.0)
    axis, colour = figure.subplots(), line_style(0)["color"]
    for place, by_task in enumerate(relations.values()):
        values = list(by_task.values())
        if len(values) >= _FEW:
            drawn: Any = axis.violinplot([values], [place], widths=0.75, showextrema=False)
            for body in drawn["bodies"]:
                body.set(facecolor=colour, alpha=0.25, linewidth=0)
        spread = np.linspace(-0.12, 0.12, len(values)) if len(values) > 1 else [0.0]
        axis.plot(place + np.array(spread), values, "o", color=colour, markersize=3.5, alpha=0.8)
        axis.plot(place, np.median(values), "_", color="black", markersize=14, markeredgewidth=1.6)
    axis.axhline(0, color="#888888", linewidth=0.8, linestyle="--")
    axis.set_xticks(range(len(relations)), [short(task, 18) for task in relations], rotation=30, ha="right")
    axis.set_ylabel("w of each earlier task")
    axis.set_xlim(-0.6, len(relations) - 0.4)
    plain_axis(axis)
