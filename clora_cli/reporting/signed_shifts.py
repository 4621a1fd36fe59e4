"""How the weights have moved after each task: the signed entries of the summed deltas (layer L3)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from clora_cli.algebra.collisions import sampled_rows
from clora_cli.algebra.comparison import Deltas
from clora_cli.algebra.lora import Factor, row_tiles
from clora_cli.reporting.shifts import HIGHEST, LOWEST

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["TOP", "SignedShifts", "measure_signed_shifts", "rows_to_look_at"]

TOP = 0.2  # the share of entries, the largest, whose signs are followed
_BINS = 81
_FINE = 100  # bins a decade by which thresholds are found
_TILE = 1 << 20
_WHOLE = 1 << 26  # entries of all deltas together, up to which every entry is looked at
_ROWS = 64  # rows of each site otherwise


@dataclass(frozen=True, eq=False)
class SignedShifts:
    """The distribution of the summed deltas' entries after each stage.

    Attributes:
        edges: (bin + 1,); the bins' edges, symmetric about 0; entries beyond them are in the outermost bins.
        shares: (stage, bin); share of all entries.
        top: (stage, bin); the same of the largest entries alone, ``TOP`` of all, as a share of all entries.
        flipped: (stage,); the share of the largest entries of the stage before whose sign is another now; 0 at the first.
    """

    edges: NDArray[np.float64]
    shares: NDArray[np.float64]
    top: NDArray[np.float64]
    flipped: NDArray[np.float64]


def measure_signed_shifts(adapters: Sequence[Deltas], rows: int = 0) -> SignedShifts:
    """Follow the sum of the deltas stage by stage.

    Args:
        adapters: At least one, in the order of training.
        rows: Rows of each site to look at, drawn by the site's name; 0 for all. Two passes over them are made.
    """
    import torch

    limit, floors = _scales(adapters, rows)
    edges = torch.linspace(-limit, limit, _BINS + 1, dtype=torch.float64)
    shares, top = torch.zeros(2, len(adapters), _BINS, dtype=torch.float64)
    counted, flipped = torch.zeros(2, len(adapters), dtype=torch.float64)
    for tiles in _sums(adapters, rows):
        for stage, tile in enumerate(tiles):
            shares[stage] += _counts(tile, edges)
            top[stage] += _counts(tile[tile.abs() >= floors[stage]], edges)
            if stage:
                large = tiles[stage - 1].abs() >= floors[stage - 1]
                counted[stage] += large.sum()
                flipped[stage] += (large & (tile * tiles[stage - 1] < 0)).sum()
    entries = shares[0].sum()
    changed = flipped / counted.clamp(min=1)
    return SignedShifts(edges.numpy(), (shares / entries).numpy(), (top / entries).numpy(), changed.numpy())


def rows_to_look_at(adapters: Sequence[Deltas]) -> int:
    """Return 0 where deltas are small enough to be looked at whole, else the number of rows of each site."""
    entries = sum(delta.shape[0] * delta.shape[1] for deltas in adapters for delta in deltas.values())
    return 0 if entries <= _WHOLE else _ROWS


def _scales(adapters: Sequence[Deltas], rows: int) -> tuple[float, list[float]]:
    """Return the magnitude that one entry of a thousand exceeds at some stage, and for each stage the one that ``TOP`` exceed."""
    import torch

    counts = torch.zeros(len(adapters), _FINE * (HIGHEST - LOWEST), dtype=torch.float64)
    entries = 0
    for tiles in _sums(adapters, rows):
        entries += tiles[0].numel()
        for stage, tile in enumerate(tiles):
            magnitudes = tile[tile != 0].abs().log10_().clamp_(LOWEST, HIGHEST - 1e-6)
            counts[stage] += torch.histc(magnitudes, bins=counts.shape[1], min=LOWEST, max=HIGHEST).double()
    above = counts.flip(1).cumsum(1).flip(1) / entries  # the share of entries in this bin and beyond
    limit, *_ = sorted((_magnitude(row, 0.001) for row in above), reverse=True)
    return limit, [_magnitude(row, TOP) for row in above]


def _magnitude(above: Tensor, share: float) -> float:
    """Return the lower edge of the last bin that a share of all entries reaches, in a histogram of logarithms."""
    return float(10.0 ** (LOWEST + max(int((above >= share).sum()) - 1, 0) / _FINE))


def _counts(values: Tensor, edges: Tensor) -> Tensor:
    import torch

    low, high = edges[0].item(), edges[-1].item()
    return torch.histc(values.double().clamp(low, high), bins=len(edges) - 1, min=low, max=high)


def _sums(adapters: Sequence[Deltas], rows: int) -> Iterator[list[Tensor]]:
    """Yield tiles of rows of each site: for each stage the sum of the deltas so far."""
    for site in sorted({site for deltas in adapters for site in deltas}):
        down, across = next(deltas[site] for deltas in adapters if site in deltas).shape
        sample = sampled_rows(site, down, rows)
        for part in row_tiles(down if sample is None else len(sample), across, _TILE):
            yield list(_stages(adapters, site, part, sample))


def _stages(adapters: Sequence[Deltas], site: str, part: slice, sample: Tensor | None) -> Iterator[Tensor]:
    import torch

    width = next(deltas[site] for deltas in adapters if site in deltas).shape[1]
    total = torch.zeros(part.stop - part.start, width)
    for deltas in adapters:
        if (delta := deltas.get(site)) is not None:
            total = total + _rows(delta, part, sample)
        yield total


def _rows(delta: Factor | Tensor, part: slice, sample: Tensor | None) -> Tensor:
    left = delta.b.float() * delta.scaling if isinstance(delta, Factor) else delta.float()
    left = (left if sample is None else left[sample])[part]
    return left @ delta.a.float() if isinstance(delta, Factor) else left
