"""Who owns what of a LoRA that tasks share: one bar a package, one piece a task, the idle rest in grey."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from clora_cli.presenting.canvas import look, shared_legend, short
from clora_cli.store.ledger import Ledger

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["compose_capacity"]

_NARROW = 0.045  # shares below this are too narrow for their number


def compose_capacity(figure: Figure, found: Mapping[str, Ledger]) -> None:
    """Draw the bars.

    Args:
        figure: An empty figure.
        found: By the package's label, who owns what in it.
    """
    figure.set_size_inches(8.0, max(0.5 * len(found) + 0.7, 1.6))
    axis = figure.subplots()
    colours: dict[str, int] = {}
    for ledger in found.values():
        for task in ledger.tasks:
            colours.setdefault(task, len(colours))
    for row, ledger in enumerate(found.values()):
        start = 0.0
        pieces = [(task, share, str(look(colours[task])["color"])) for task, share in ledger.shares.items()]
        for task, share, colour in [*pieces, ("idle", ledger.idle / ledger.size, "#dcdcdc")]:
            # Neighbours of one colour, the seventh task on, keep apart by a white line.
            axis.barh(
                row, 100 * share, left=100 * start, color=colour, edgecolor="white", height=0.7, label=short(task)
            )
            if share >= _NARROW:
                text = "black" if task == "idle" else "white"
                axis.text(
                    100 * (start + share / 2),
                    row,
                    f"{100 * share:.1f}",
                    ha="center",
                    va="center",
                    fontsize=8,
                    color=text,
                )
            start += share
    axis.set_yticks(range(len(found)), [short(label, 30) for label in found])
    axis.invert_yaxis()
    axis.set_xlim(0, 100)
    axis.set_xlabel("entries of lora_B (%)")
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.tick_params(axis="y", length=0)
    shared_legend(figure, [axis])
