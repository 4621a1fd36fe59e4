"""Deltas of low rank as small matrices in bases that all of them share."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from clora_cli.algebra.lora import Factor
from clora_cli.merges import Deltas
from clora_cli.merges._combine import working

__all__ = ["Cores", "singular"]


class Cores:
    """All adapters' deltas at one site as ``delta_i = left core_i right^T`` with orthonormal columns of both sides.

    What commutes with rotations, as singular values do, is computed on the cores, in float64: of adapters whose ranks add up to
    R they are at most R x R. Where one delta is dense, all are, and each is its own core.

    Args:
        deltas: The deltas, whole.
    """

    def __init__(self, deltas: Deltas) -> None:
        self._deltas, self._dtype = deltas, working(*deltas.adapters)
        factors = [adapter for adapter in deltas.adapters if isinstance(adapter, Factor)]
        self._factored = len(factors) == len(deltas)
        if self._factored:
            ranks = [factor.rank for factor in factors]
            self._left, outputs = torch.linalg.qr(torch.cat([f.b.double() * f.scaling for f in factors], dim=1))
            self._right, inputs = torch.linalg.qr(torch.cat([f.a.double() for f in factors]).mT)
            self._parts = list(zip(outputs.split(ranks, dim=1), inputs.split(ranks, dim=1), strict=True))

    def __iter__(self) -> Iterator[Tensor]:
        """Yield each adapter's core, float64."""
        if self._factored:
            yield from (outputs @ inputs.mT for outputs, inputs in self._parts)
        else:
            yield from (delta.double() for delta in self._deltas)

    def weighted(self) -> Iterator[Tensor]:
        """Yield each adapter's core times its weight."""
        for weight, core in zip(self._deltas.weights.double(), self, strict=True):
            yield weight * core

    def rows(self, core: Tensor) -> Tensor:
        """Return ``core right^T``: what has the bases' inputs as columns has the layer's again."""
        return core @ self._right.mT if self._factored else core

    def whole(self, core: Tensor) -> Factor | Tensor:
        """Return a core's delta: factors of factors, else dense, in the deltas' type."""
        return self.of_rows(core, self.rows(torch.eye(core.shape[1], dtype=core.dtype)) if self._factored else None)

    def of_rows(self, core: Tensor, rows: Tensor | None) -> Factor | Tensor:
        """Return ``left core rows``; ``core`` alone is it where rows are None."""
        if self._factored and rows is not None:
            return Factor(rows.to(self._dtype), (self._left @ core).to(self._dtype), 1.0)
        return (core if rows is None else core @ rows).to(self._dtype)

    def singular(self, core: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return ``U, s, V^T`` of a core, without what is 0 at the deltas' precision."""
        return singular(core, self._dtype)


def singular(matrix: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Return ``U, s, V^T`` of a matrix, without the singular values that are 0 at a type's precision."""
    left, sizes, right = torch.linalg.svd(matrix, full_matrices=False)
    count = int((sizes > max(matrix.shape) * torch.finfo(dtype).eps * sizes[0]).sum())
    return left[:, :count], sizes[:count], right[:count]
