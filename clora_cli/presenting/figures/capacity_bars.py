"""Who owns what of a LoRA that tasks share: a bar for each package, a piece for each task, the idle rest in grey."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from clora_cli.presenting.canvas import line_style, shared_legend, short
from clora_cli.presenting.ledger_shares import owner_shares
from clora_cli.store.ledger import Ledger

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["compose_capacity"]

_NARROW = 0.045  # a piece of a smaller share is too narrow for its number


def compose_capacity(figure: Figure, ledgers: Mapping[str, Ledger]) -> None:
    """Draw the bars.

    Args:
        figure: An empty figure.
        ledgers: Who owns what, by the package's label.
    """
    figure.set_size_inches(8.0, max(0.5 * len(ledgers) + 0.7, 1.6))
    axis = figure.subplots()
    tasks = dict.fromkeys(task for ledger in ledgers.values() for task in ledger.tasks)
    colours = {task: str(line_style(number)["color"]) for number, task in enumerate(tasks)}
    for row, ledger in enumerate(ledgers.values()):
        _bar(axis, row, ledger, colours)
    axis.set_yticks(range(len(ledgers)), [short(label, 30) for label in ledgers])
    axis.invert_yaxis()
    axis.set_xlim(0, 100)
    axis.set_xlabel("entries of lora_B (%)")
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.tick_params(axis="y", length=0)
    shared_legend(figure, [axis])


def _bar(axis: Axes, row: int, ledger: Ledger, colours: Mapping[str, str]) -> None:
    start = 0.0
    for name, share in owner_shares(ledger).items():
        colour, ink = (colours[name], "white") if name in colours else ("#dcdcdc", "black")
        # Colours repeat from the seventh task on: a white line keeps neighbours apart.
        axis.barh(row, 100 * share, left=100 * start, color=colour, edgecolor="white", height=0.7, label=short(name))
        if share >= _NARROW:
            middle = 100 * (start + share / 2)
            axis.text(middle, row, f"{100 * share:.1f}", ha="center", va="center", fontsize=8, color=ink)
        start += share
