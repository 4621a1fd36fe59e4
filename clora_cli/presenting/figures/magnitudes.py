"""How far each adapter moves the weights: histograms of the magnitudes of its deltas' entries."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from clora_cli.algebra.collisions import sampled_rows
from clora_cli.algebra.comparison import Deltas
from clora_cli.algebra.lora import Factor, row_tiles
from clora_cli.presenting.canvas import plain_axis, shared_legend, short

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from torch import Tensor

__all__ = ["Shift", "compose_shifts", "measure_shift"]

_LOW, _HIGH, _PER_DECADE = -10, 2, 8  # decades of magnitude, and bins in each
_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")  # formulae would be drawn as they are typed
_TILE = 1 << 20  # entries held at one time: 4 MB
_SEEN = 0.001  # shares below this do not widen the axis
_MOST = 8  # names of adapters beside the lines; of more, a scale of colours


@dataclass(frozen=True, eq=False)
class Shift:
    """A histogram of magnitudes.

    Attributes:
        shares: (bin,); share of all entries in each, bins evenly spaced in the logarithm from 1e-10 to 1e2.
        zeros: Share of the entries that are exactly zero.
    """

    shares: NDArray[np.float64]
    zeros: float


def measure_shift(deltas: Deltas, rows: int = 0) -> Shift:
    """Count the magnitudes of the entries of an adapter's deltas, tile by tile.

    Args:
        deltas: The adapter's.
        rows: Rows of each site to count in, drawn by the site's name; 0 for all.
    """
    import torch

    shares = torch.zeros((_HIGH - _LOW) * _PER_DECADE, dtype=torch.float64)
    zeros = 0.0
    entries = sum(delta.shape[0] * delta.shape[1] for delta in deltas.values())
    for site, delta in deltas.items():
        drawn = sampled_rows(site, delta.shape[0], rows)
        # What a sample shows stands for the whole site.
        each = delta.shape[0] / (delta.shape[0] if drawn is None else len(drawn)) / entries
        for tile in _tiles(delta, drawn):
            kept = tile[tile != 0].abs().log10_().clamp_(_LOW, _HIGH - 1e-6)
            zeros += each * (tile.numel() - kept.numel())
            shares += each * torch.histc(kept, bins=len(shares), min=_LOW, max=_HIGH).double()
    return Shift(shares.numpy(), zeros)


def compose_shifts(figure: Figure, found: Mapping[str, Mapping[str, Shift]]) -> None:
    """Draw a panel for each package, a line for each of its adapters, dark ones learned late.

    Args:
        figure: An empty figure.
        found: By the package's label, the shift of each adapter by its name, in the order in which they were learned.
    """
    across = min(len(found), 3)
    down = math.ceil(len(found) / across)
    figure.set_size_inches(max(3.2 * across + 1.6, 4.8), 2.5 * down)
    axes = figure.subplots(down, across, squeeze=False, sharex=True, sharey=True).flatten()
    for number, (axis, (label, shifts)) in enumerate(zip(axes, found.items(), strict=False)):
        _panel(axis, shifts, _labels(found))
        axis.set_title(short(label, 40) + _sparsity(shifts), fontsize=10, loc="left")
        axis.tick_params(labelbottom=number + across >= len(found))
    for axis in axes[len(found) :]:
        axis.set_axis_off()
    low, high = _range([shift for shifts in found.values() for shift in shifts.values()])
    axes[0].set_xlim(low, high)
    axes[0].set_ylim(bottom=0)
    figure.supxlabel("|delta| of an entry", fontsize=9)
    figure.supylabel("entries (%)", fontsize=9)
    if max(map(len, found.values())) <= _MOST:
        shared_legend(figure, axes)


def _tiles(delta: Factor | Tensor, drawn: Tensor | None) -> Iterator[Tensor]:
    left = delta.b.float() * delta.scaling if isinstance(delta, Factor) else delta
    left = left if drawn is None else left[drawn]
    parts = row_tiles(len(left), delta.shape[1], _TILE)
    if isinstance(delta, Factor):
        a = delta.a.float()
        return (left[part] @ a for part in parts)
    return (left[part].float() for part in parts)


def _labels(found: Mapping[str, Mapping[str, Shift]]) -> list[str]:
    """Return the adapters' names for the legend: their tasks where all packages learned them in one order."""
    longest = max((list(shifts) for shifts in found.values()), key=len)
    if all(list(shifts) == longest[: len(shifts)] for shifts in found.values()):
        return [f"{number} {short(name)}" for number, name in enumerate(longest, start=1)]
    return [f"adapter {number}" for number in range(1, len(longest) + 1)]


def _sparsity(shifts: Mapping[str, Shift]) -> str:
    zeros = [shift.zeros for shift in shifts.values()]
    return f" ({100 * sum(zeros) / len(zeros):.0f} % zeros)" if max(zeros) > _SEEN else ""


def _panel(axis: Axes, shifts: Mapping[str, Shift], labels: Sequence[str]) -> None:
    from matplotlib import colormaps
    from matplotlib.ticker import NullLocator

    middles = 10 ** (_LOW + (np.arange((_HIGH - _LOW) * _PER_DECADE) + 0.5) / _PER_DECADE)
    for number, shift in enumerate(shifts.values()):
        colour = colormaps["viridis_r"](0.15 + 0.85 * number / max(len(labels) - 1, 1))
        axis.plot(middles, 100 * shift.shares, linewidth=1.5, color=colour, label=labels[number])
    axis.set_xscale("log")
    axis.xaxis.set_major_formatter(lambda value, _: f"10{str(round(math.log10(value))).translate(_RAISED)}")
    axis.xaxis.set_minor_locator(NullLocator())
    plain_axis(axis)


def _range(shifts: Sequence[Shift]) -> tuple[float, float]:
    """Return the magnitudes between which nearly all entries lie, in whole decades."""
    seen = np.flatnonzero(np.max([shift.shares for shift in shifts], axis=0) > _SEEN)
    if not seen.size:
        return 10.0**_LOW, 10.0**_HIGH
    return 10.0 ** (_LOW + seen[0] // _PER_DECADE), 10.0 ** (_LOW + math.ceil((seen[-1] + 1) / _PER_DECADE))
