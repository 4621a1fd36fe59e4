"""How much each new adapter collides with those before it, stage by stage, for all methods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from clora_cli.presenting.canvas import line_style, shared_legend, short, stage_axis
from clora_cli.reporting.differences import Difference, value_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["compose_interference"]

_SHOWN = {
    "collision-rate": "collisions with all earlier (%)",
    "opposite-signs": "opposite signs (%)",
}


def compose_interference(figure: Figure, differences: Mapping[str, Difference], colours: Mapping[str, int]) -> None:
    """Draw a panel for the collision rate and one for opposite signs, a line for each package.

    Args:
        figure: An empty figure.
        differences: The measures of each package's adapters, by its label.
        colours: The number of each method's colour; a package of another label gets a further one.
    """
    figure.set_size_inches(3.6 * len(_SHOWN) + 1.2, 3.0)
    axes = figure.subplots(1, len(_SHOWN))
    for axis, (measure, title) in zip(axes, _SHOWN.items(), strict=True):
        _panel(axis, measure, differences, colours)
        axis.set(xlabel="stage", ylabel=title)
    shared_legend(figure, axes)


def _panel(axis: Axes, measure: str, differences: Mapping[str, Difference], colours: Mapping[str, int]) -> None:
    for number, (label, difference) in enumerate(differences.items()):
        values = _percentages(difference, measure)
        stages = range(2, len(values) + 2)
        style = line_style(colours.get(label, len(colours) + number))
        axis.plot(stages, values, markersize=5, linewidth=1.6, label=short(label, 40), **style)
    axis.set_ylim(bottom=0)
    axis.margins(x=0.08)
    stage_axis(axis)


def _percentages(difference: Difference, measure: str) -> Sequence[float]:
    """Return a measure of each adapter from the second on against all before it; NaN if they share no site."""
    shares = (value_of(comparison, measure) for comparison in difference.survey.earlier[1:])
    return [float("nan") if share is None else 100 * share for share in shares]
