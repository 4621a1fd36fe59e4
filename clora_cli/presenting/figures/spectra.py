"""The nuclear norm of each layer's delta, adapter by adapter: how much of each layer a method uses."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from clora_cli.presenting.canvas import plain_axis, shared_legend, short

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["compose_nuclear_norms"]

Norms = Mapping[str, Sequence[tuple[str, int, float]]]  # adapter to (projection, layer, norm)


def compose_nuclear_norms(figure: Figure, norms: Mapping[str, Norms]) -> None:
    """Draw a panel for each package: mean over adapters of each layer's nuclear norm, the range between them behind it.

    Args:
        figure: An empty figure.
        norms: By the package's label, each adapter's norms: the kind of a projection, its layer, and its norm. Adapters may reach
            different layers; several projections of a kind in a layer count as their mean.
    """
    from matplotlib import colormaps

    across = min(len(norms), 3)
    down = math.ceil(len(norms) / across)
    figure.set_size_inches(3.3 * across + 1.2, 2.5 * down)
    axes = figure.subplots(down, across, squeeze=False, sharey=True).flatten()
    kinds = list(dict.fromkeys(kind for package in norms.values() for own in package.values() for kind, *_ in own))
    for axis, (label, package) in zip(axes, norms.items(), strict=False):
        for number, kind in enumerate(kinds):
            layers, values = _by_layer(package, kind)
            if not layers:
                continue
            colour = colormaps["viridis"](0.1 + 0.75 * number / max(len(kinds) - 1, 1))
            marker = {"marker": "o", "markersize": 4} if len(layers) < 16 else {}
            axis.plot(layers, np.nanmean(values, 0), color=colour, linewidth=1.5, label=kind, **marker)
            low, high = np.nanmin(values, 0), np.nanmax(values, 0)
            axis.fill_between(layers, low, high, color=colour, alpha=0.15, linewidth=0)
            axis.axhline(float(np.nanmean(values)), color=colour, linestyle=":", linewidth=1)
        axis.set_title(short(label, 40), fontsize=10, loc="left")
        axis.set(xlabel="layer")
        axis.xaxis.get_major_locator().set_params(integer=True)
        plain_axis(axis)
    for axis in axes[len(norms) :]:
        axis.set_axis_off()
    axes[0].set_ylim(bottom=0)
    axes[0].set_ylabel("nuclear norm of a delta")
    shared_legend(figure, axes)


def _by_layer(package: Norms, kind: str) -> tuple[list[int], np.ndarray]:
    """Return the layers of a kind of projection, and its norms there: shape (adapter, layer), NaN where an adapter has none."""
    layers = sorted({layer for own in package.values() for name, layer, _ in own if name == kind})
    found: list[dict[int, list[float]]] = []
    for own in package.values():
        found.append({})
        for name, layer, norm in own:
            if name == kind:
                found[-1].setdefault(layer, []).append(norm)
    return layers, np.array([[np.mean(own[layer]) if layer in own else np.nan for layer in layers] for own in found])
