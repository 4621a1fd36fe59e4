"""A trim: sorted magnitudes, their chord, and where they were cut."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from clora_cli.presenting.canvas import save

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from torch import Tensor

__all__ = ["Trimmed", "compose_knee", "draw_knee"]

_CURVE, _STAR, _CHORD = "#0072B2", "#D62728", "#8c8c8c"


@dataclass(frozen=True, eq=False)
class Trimmed:
    """Entries that were trimmed together.

    Attributes:
        panel: The title of the panel that they are drawn in.
        values: The entries, shape (entry,).
        kept: Which of them stay, shape (entry,), bool.
    """

    panel: str
    values: Tensor
    kept: Tensor


def draw_knee(trims: Sequence[Trimmed], path: str | Path) -> None:
    """Draw magnitudes from the largest to the smallest, and where those that stay end.

    Each curve is scaled to the unit square. The entries that stay are drawn over it and end in a star: on the curve if a trim
    keeps the largest, below it otherwise.

    Args:
        trims: At least one; several in one panel become thin lines.
        path: The file; its ending, one of ``png svg pdf``, is the format.

    Raises:
        OptionError: If the ending is another.
        CloraError: If the file cannot be written.
    """
    save(Path(path), lambda figure: compose_knee(figure, trims))


def compose_knee(figure: Figure, trims: Sequence[Trimmed]) -> None:
    """Fill an empty figure with a panel for each title."""
    panels: dict[str, list[Trimmed]] = {}
    for trim in trims:
        panels.setdefault(trim.panel, []).append(trim)
    figure.set_size_inches(4.4 * len(panels), 3.6)
    for axis, (title, group) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        axis.plot([0, 1], [1, 0], color=_CHORD, linestyle="--", linewidth=1, label="chord")
        for trim in group:
            _draw(axis, trim, thin=len(group) > 1)
        axis.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="share of the entries, largest first")
        axis.set_title(f"{title}: {_share(group)}", fontsize=10, loc="left")
        axis.spines[["top", "right"]].set_visible(False)
        handles, labels = axis.get_legend_handles_labels()
        distinct = dict(zip(labels, handles, strict=True))
        axis.legend(distinct.values(), distinct.keys(), frameon=False, loc="upper right")
    figure.axes[0].set_ylabel("magnitude, scaled to [0, 1]")


def _draw(axis: Axes, trim: Trimmed, *, thin: bool) -> None:
    from clora_cli.trims import Curve

    curve, width = Curve.of(trim.values), 0.6 if thin else 1.4
    axis.plot(*curve.points(curve.sample()), color=_CURVE, alpha=0.5, linewidth=width, label="all entries")
    if not bool(trim.kept.any()):
        return
    staying = Curve.of(trim.values[trim.kept])
    numbers = staying.sample()
    x, y = numbers / len(curve), curve.scaled(staying.magnitudes[numbers - 1])
    axis.plot(x, y, color=_CURVE, linewidth=2.2 * width, label="what stays")
    size = 5 if thin else 13
    axis.plot(x[-1], y[-1], "*", color=_STAR, markersize=size, linestyle="none", label="cut", clip_on=False, zorder=3)


def _share(trims: Iterable[Trimmed]) -> str:
    kept = sum(int(trim.kept.sum()) for trim in trims)
    return f"{kept / sum(len(trim.kept) for trim in trims):.1%} stay"
