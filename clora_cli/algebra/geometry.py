"""Where deltas lie: their nuclear norms, and a plane in which their distances are kept as well as a plane can (layer L1)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from clora_cli.algebra.comparison import Deltas
from clora_cli.algebra.lora import Factor
from clora_cli.algebra.overlaps import left_and_right, products

__all__ = ["inner_products", "nuclear_norm", "plane"]


def nuclear_norm(delta: Factor | Tensor) -> float:
    """Return the sum of a delta's singular values, at least 0."""
    return float(torch.linalg.svdvals(left_and_right(delta)[0]).sum())


def inner_products(adapters: Sequence[Deltas]) -> Tensor:
    """Return ``<D_i, D_j>_F`` of each pair of adapters over all sites, shape (adapter, adapter), float64; a missing site is zero."""
    total = torch.zeros(len(adapters), len(adapters), dtype=torch.float64)
    for site in sorted({site for deltas in adapters for site in deltas}):
        present = [number for number, deltas in enumerate(adapters) if site in deltas]
        deltas = [adapters[number][site] for number in present]
        rows = torch.tensor(present)
        total[rows[:, None], rows] += products(deltas, list(map(left_and_right, deltas)))[0, :, :-1]
    return total


def plane(inner: Tensor) -> tuple[Tensor, float]:
    """Lay points out in a plane by classical multidimensional scaling, the origin among them.

    Args:
        inner: The points' inner products, shape (point, point).

    Returns:
        Coordinates, shape (1 + point, 2), the origin's first and at 0, and the share of all squared distances from the mean that
        the plane keeps, in [0, 1].
    """
    count = len(inner) + 1
    gram = torch.zeros(count, count, dtype=torch.float64)
    gram[1:, 1:] = inner
    centre = torch.eye(count, dtype=torch.float64) - 1 / count
    values, vectors = torch.linalg.eigh(centre @ gram @ centre)
    values = values.clamp(min=0)
    kept = vectors[:, -2:].flip(1) * values[-2:].flip(0).sqrt()
    kept = kept - kept[0]
    signs = torch.where(kept.sum(0) < 0, -1.0, 1.0)  # else a mirror image would do as well
    return kept * signs, (values[-2:].sum() / values.sum()).item() if values.sum() else 1.0
