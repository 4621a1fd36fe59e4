"""What each further task costs: time and memory of training, stage by stage, for all methods."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING

from clora_cli.presenting.canvas import line_style, shared_legend, short, stage_axis
from clora_cli.store.costs import Cost

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["compose_costs"]

_Value = Callable[[Cost], float | None]
_PANELS: dict[str, _Value] = {
    "training a task (s)": lambda cost: cost.seconds,
    "peak memory (GB)": lambda cost: None if cost.peak_memory_bytes is None else cost.peak_memory_bytes / 1e9,
    "peak memory of the accelerator (GB)": lambda cost: (
        None if cost.peak_device_bytes is None else cost.peak_device_bytes / 1e9
    ),
}


def compose_costs(figure: Figure, costs: Sequence[Cost], colours: Mapping[str, int]) -> None:
    """Draw a panel for each kind of cost that was measured, a line for each method: means over its runs.

    Args:
        figure: An empty figure.
        costs: The steps of runs; those of training are drawn.
        colours: The number of each method's colour.
    """
    training = [cost for cost in costs if cost.step == "train"]
    panels = {
        title: value_of for title, value_of in _PANELS.items() if any(value_of(cost) is not None for cost in training)
    }
    figure.set_size_inches(3.0 * len(panels) + 1.2, 2.8)
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axis, (title, value_of) in zip(axes, panels.items(), strict=True):
        _panel(axis, training, value_of, colours)
        axis.set(xlabel="stage", ylabel=title)
    shared_legend(figure, axes)


def _panel(axis: Axes, costs: Sequence[Cost], value_of: _Value, colours: Mapping[str, int]) -> None:
    for number, method in enumerate(dict.fromkeys(cost.method for cost in costs)):
        by_stage: dict[int, list[float]] = {}
        for cost in costs:
            if cost.method == method and (value := value_of(cost)) is not None:
                by_stage.setdefault(cost.stage, []).append(value)
        stages = sorted(by_stage)
        means = [fmean(by_stage[stage]) for stage in stages]
        style = line_style(colours.get(method, len(colours) + number))
        axis.plot(stages, means, markersize=5, linewidth=1.6, label=short(method, 40), **style)
    axis.set_ylim(0, 1.08 * axis.get_ylim()[1])
    axis.margins(x=0.08)
    stage_axis(axis)
