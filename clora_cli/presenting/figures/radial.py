"""Who owns what of a LoRA that tasks share, as in CAST's figure 8: a sector for each task, as long as its share."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from clora_cli.presenting.canvas import line_style, short
from clora_cli.presenting.ledger_shares import owner_shares
from clora_cli.store.ledger import Ledger

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["compose_radial"]

_HOLE = 0.18  # of the longest sector: keeps short ones apart in the middle


def compose_radial(figure: Figure, ledger: Ledger) -> None:
    """Draw a sector for each task, in the order of learning, and a grey one for the idle entries.

    Args:
        figure: An empty figure.
        ledger: Who owns what.
    """
    figure.set_size_inches(5.2, 5.2)
    axis: Any = figure.add_subplot(projection="polar")  # typed as an axis without directions
    shares = owner_shares(ledger)
    longest = max(shares.values()) or 1.0
    width = 2 * math.pi / len(shares)
    for number, (name, share) in enumerate(shares.items()):
        angle = number * width
        colour = line_style(number)["color"] if name in ledger.tasks else "#b9b9b9"
        axis.bar(angle, share, width=0.92 * width, bottom=_HOLE * longest, color=colour, edgecolor="white")
        _label(axis, f"{short(name)} {100 * share:.1f} %", angle, (_HOLE + 0.04) * longest + share)
    axis.set_theta_zero_location("N")
    axis.set_theta_direction(-1)
    axis.set_ylim(0, (1 + _HOLE) * longest)
    axis.set_axis_off()


def _label(axis: Any, text: str, angle: float, radius: float) -> None:
    """Write a label along its sector; turned round on the left half, so that it is never upside down."""
    degrees = math.degrees(angle)
    left = degrees > 180
    axis.text(
        angle,
        radius,
        text,
        rotation=90 - degrees + (180 if left else 0),
        rotation_mode="anchor",
        ha="right" if left else "left",
        va="center",
        fontsize=8,
    )
