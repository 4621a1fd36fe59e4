"""How far an adapter moves the weights: a histogram of the magnitudes of its deltas' entries (layer L3)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from clora_cli.algebra.collisions import sampled_rows
from clora_cli.algebra.comparison import Deltas
from clora_cli.algebra.lora import Factor, row_tiles

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["BINS_A_DECADE", "HIGHEST", "LOWEST", "Shift", "measure_shift"]

LOWEST = -10  # the smallest magnitude of the histogram, as a power of ten
HIGHEST = 2
BINS_A_DECADE = 8
_TILE = 1 << 20  # entries in memory at one time: 4 MB


@dataclass(frozen=True, eq=False)
class Shift:
    """A histogram of magnitudes.

    Attributes:
        shares: (bin,); share of all entries in each bin; bins are equal in the logarithm, from 1e-10 to 1e2.
        zeros: Share of the entries that are exactly zero.
    """

    shares: NDArray[np.float64]
    zeros: float


def measure_shift(deltas: Deltas, rows: int = 0) -> Shift:
    """Count the magnitudes of the entries of an adapter's deltas, tile by tile.

    Args:
        deltas: The adapter's deltas.
        rows: Rows of each site to count in, drawn by the site's name; 0 for all.
    """
    import torch

    shares = torch.zeros((HIGHEST - LOWEST) * BINS_A_DECADE, dtype=torch.float64)
    zeros = 0.0
    entries = sum(delta.shape[0] * delta.shape[1] for delta in deltas.values())
    for site, delta in deltas.items():
        sample = sampled_rows(site, delta.shape[0], rows)
        # The sampled rows represent all rows of their site.
        weight = delta.shape[0] / (delta.shape[0] if sample is None else len(sample)) / entries
        for tile in _tiles(delta, sample):
            magnitudes = tile[tile != 0].abs().log10_().clamp_(LOWEST, HIGHEST - 1e-6)
            zeros += weight * (tile.numel() - magnitudes.numel())
            shares += weight * torch.histc(magnitudes, bins=len(shares), min=LOWEST, max=HIGHEST).double()
    return Shift(shares.numpy(), zeros)


def _tiles(delta: Factor | Tensor, sample: Tensor | None) -> Iterator[Tensor]:
    left = delta.b.float() * delta.scaling if isinstance(delta, Factor) else delta
    left = left if sample is None else left[sample]
    parts = row_tiles(len(left), delta.shape[1], _TILE)
    if isinstance(delta, Factor):
        a = delta.a.float()
        return (left[part] @ a for part in parts)
    return (left[part].float() for part in parts)
