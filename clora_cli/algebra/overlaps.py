"""Inner products, overlaps and ranks of several deltas of one site, from r x r products of their factors (layer L1)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from clora_cli.algebra.lora import Factor

__all__ = ["left_and_right", "products", "ranks_of"]

_TILE = 1 << 20  # entries of a product held at one time: 8 MB
_FLOOR = 1e-13  # eigenvalues of a Gram matrix below this share of its largest are rounding


def left_and_right(delta: Factor | Tensor) -> tuple[Tensor, Tensor | None]:
    """Write a delta as ``left @ right^T`` with orthonormal columns in ``right``; None stands for the identity.

    Norms and singular values of the delta are then those of ``left``: shape (out, rank), or (out, in) if dense.
    """
    if not isinstance(delta, Factor):
        return delta.double(), None
    q, r = torch.linalg.qr(delta.a.double().mT)
    return delta.scaling * delta.b.double() @ r.mT, q


def products(deltas: Sequence[Factor | Tensor], sides: Sequence[tuple[Tensor, Tensor | None]]) -> Tensor:
    """Return a site's inner products, energies of either side, AWOMs and overlaps, shape (6, adapter, adapter + 1)."""
    count = len(deltas)
    inner, awom, overlap, dense = torch.zeros(4, count, count, dtype=torch.float64)
    for i in range(count):
        for j in range(i, count):
            inner[i, j], awom[i, j] = _product(sides[i], sides[j])
            first, other = deltas[i], deltas[j]
            if isinstance(first, Factor) and isinstance(other, Factor):
                overlap[i, j] = (first.a.double() @ other.a.double().mT).square().sum()
            else:
                dense[i, j] = 1
    inner, awom, overlap, dense = (table.triu() + table.triu(1).mT for table in (inner, awom, overlap, dense))
    before = torch.ones(count, count, dtype=torch.float64).tril(-1)
    own = inner.diagonal()[:, None].expand(count, count)
    # The squared norm of a sum is the sum of all its terms' inner products.
    earlier = ((before @ inner) * before).sum(1).clamp(min=0)
    columns = [
        (inner * before).sum(1),
        own[:, 0],
        earlier,
        *((table * before).sum(1) for table in (awom, overlap, dense)),
    ]
    columns[1] = columns[1] * before.any(1)
    return torch.cat([torch.stack([inner, own, own.mT, awom, overlap, dense]), torch.stack(columns)[:, :, None]], 2)


def _product(one: tuple[Tensor, Tensor | None], other: tuple[Tensor, Tensor | None]) -> tuple[float, float]:
    """Return ``<D_1, D_2>_F`` and ``||D_1^T D_2||_F`` from the sides; r x r where both are low-rank."""
    (left_1, right_1), (left_2, right_2) = one, other
    inner = square = 0.0
    size = max(1, _TILE // left_2.shape[1])
    for start in range(0, left_1.shape[1], size):
        part = slice(start, start + size)
        middle = left_1[:, part].mT @ left_2
        square += middle.square().sum().item()
        # The inner product is that of the middle with right_1^T right_2.
        if right_1 is not None:
            facing = right_1[:, part].mT
            inner += (middle * (facing if right_2 is None else facing @ right_2)).sum().item()
        else:
            inner += (middle.diagonal(start) if right_2 is None else middle * right_2[part]).sum().item()
    return inner, math.sqrt(square)


def ranks_of(left: Tensor) -> tuple[float, float]:
    """Return the effective rank and the stable rank of a matrix that is not zero."""
    gram = left.mT @ left if left.shape[0] > left.shape[1] else left @ left.mT
    energies = torch.linalg.eigvalsh(gram)
    energies = energies[energies > _FLOOR * energies[-1]]
    values = energies.sqrt()
    shares = values / values.sum()
    entropy = -(shares * shares.log()).sum().item()
    return math.exp(entropy), (energies.sum() / energies[-1]).item()
