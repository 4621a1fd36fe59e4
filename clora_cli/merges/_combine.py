"""Ways to combine deltas that come one at a time."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from clora_cli.algebra.lora import Factor

__all__ = ["Election", "nothing", "product", "weighted_sum", "working"]


def weighted_sum(weights: Tensor, deltas: Iterable[Tensor]) -> Tensor:
    """Return the sum of the deltas times their weights; the deltas are changed in place.

    Args:
        weights: Shape (adapter,).
        deltas: As many tensors of one shape, at least one.
    """
    total: Tensor | None = None
    for weight, delta in zip(weights.tolist(), deltas, strict=True):
        delta.mul_(weight)
        total = delta if total is None else total.add_(delta)
    return total  # type: ignore[return-value]  # there is at least one adapter


class Election:
    """Elects a sign at every position and takes the weighted mean of the deltas that have it, in one pass over them.

    The elected sign is that of the weighted sum. A delta of 0 takes no part; a negative weight turns its delta around
    and counts by its absolute value. Where the weighted sum is 0, no sign wins and the mean is 0.

    Args:
        rounding: A sum counts as 0 up to this share of the sum of magnitudes: what opposite entries that were computed leave of each
            other.
    """

    def __init__(self, rounding: float = 0.0) -> None:
        self._rounding = rounding
        # Sums and weights of the positive and of the negative entries, each of the deltas' shape.
        self._totals: list[Tensor] = []
        self._weights: list[Tensor] = []

    def add(self, weight: float, delta: Tensor) -> None:
        """Count one adapter's delta, of any shape; it is changed in place."""
        delta.mul_(weight)
        if not self._totals:
            self._totals = [torch.zeros_like(delta) for _ in range(2)]
            self._weights = [torch.zeros_like(delta) for _ in range(2)]
        sides = delta.clamp(min=0), delta.clamp_(max=0)
        for total, weights, side, sign in zip(self._totals, self._weights, sides, (1, -1), strict=True):
            total.add_(side)
            weights.add_(side.sign_(), alpha=sign * abs(weight))

    def mean(self) -> Tensor:
        """Return the weighted mean of those who have the elected sign, of the deltas' shape."""
        elected = self._totals[0] + self._totals[1]
        positive = elected > 0
        total = torch.where(positive, self._totals[0], self._totals[1])
        weights = torch.where(positive, self._weights[0], self._weights[1])
        none = elected.abs() <= self._rounding * (self._totals[0] - self._totals[1]) if self._rounding else elected == 0
        return total.div_(weights).masked_fill_(none, 0)


def nothing(like: Factor | Tensor) -> Factor:
    """Return a delta of a given one's shape that is 0, of rank 0."""
    out, columns = like.shape
    return Factor(torch.zeros(0, columns), torch.zeros(out, 0), 1.0)


def product(factor: Factor, rows: slice, buffer: Tensor | None) -> Tensor:
    """Return some rows of a pair's delta, in a buffer of at least that many rows, or in fresh memory."""
    dtype = working(factor) if buffer is None else buffer.dtype
    # The scaling goes into the small factor, and one matrix product gives the tile.
    left = factor.b[rows].to(dtype) * factor.scaling
    out = None if buffer is None else buffer[: left.shape[0]]
    return torch.mm(left, factor.a.to(dtype), out=out)


def working(*adapters: Factor | Tensor) -> torch.dtype:
    """Return the type to compute in: float32, or float64 where an adapter has that."""
    types = [adapter.b.dtype if isinstance(adapter, Factor) else adapter.dtype for adapter in adapters]
    return torch.float64 if torch.float64 in types else torch.float32
