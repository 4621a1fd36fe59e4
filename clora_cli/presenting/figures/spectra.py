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

Norms = Mapping[str, Sequence[tuple[str, float]]]  # adapter to (projection, norm), layer by layer


def compose_nuclear_norms(figure: Figure, norms: Mapping[str, Norms]) -> None:
    """Draw a panel for each package: mean over adapters of each layer's nuclear norm, the range between them behind it.

    Args:
        figure: An empty figure.
        norms: By the package's label, each adapter's norms: pairs of a kind of projection and its norm, in the model's order.
    """
    from matplotlib import colormaps

    across = min(len(norms), 3)
    down = math.ceil(len(norms) / across)
    figure.set_size_inches(3.3 * across + 1.2, 2.5 * down)
    axes = figure.subplots(down, across, squeeze=False, sharey=True).flatten()
    kinds = list(dict.fromkeys(kind for package in norms.values() for own in package.values() for kind, _ in own))
    for axis, (label, package) in zip(axes, norms.items(), strict=False):
        for number, kind in enumerate(kinds):
            values = np.array([[norm for name, norm in own if name == kind] for own in package.values()])
            colour = colormaps["viridis"](0.1 + 0.75 * number / max(len(kinds) - 1, 1))
            layers = range(values.shape[1])
            marker = {"marker": "o", "markersize": 4} if len(layers) < 16 else {}
            axis.plot(layers, values.mean(0), color=colour, linewidth=1.5, label=kind, **marker)
            axis.fill_between(layers, values.min(0), values.max(0), color=colour, alpha=0.15, linewidth=0)
            axis.axhline(values.mean(), color=colour, linestyle=":", linewidth=1)
        axis.set_title(short(label, 40), fontsize=10, loc="left")
        axis.set(xlabel="layer")
        axis.xaxis.get_major_locator().set_params(integer=True)
        plain_axis(axis)
    for axis in axes[len(norms) :]:
        axis.set_axis_off()
    axes[0].set_ylim(bottom=0)
    axes[0].set_ylabel("nuclear norm of a delta")
    shared_legend(figure, axes)
