"""Add the adapters up, each times its weight, and cut the sum to the largest rank among them."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from clora_cli.merges import Merge

__all__ = ["Svd"]


@dataclass(frozen=True, kw_only=True)
class Svd(Merge):
    """Add the adapters up, each times its weight, and cut the sum to the largest rank among them.

    ``merged = best rank-r approximation of sum_i w_i delta_i``, with the rank that is asked for, else the largest among
    the adapters. The weights are used as they are, of either sign.

    References:
        The sum is task arithmetic: Ilharco et al., Editing Models with Task Arithmetic, 2023, arXiv:2212.04089; the cut is
        PEFT's ``svd``.
        Differs: from the factors, never through the SVD of a full matrix; what the cut loses is told.
    """

    linear = True
    refactors = True

    def coefficients(self, weights: Tensor) -> Tensor:
        """Return the weights, shape (adapter,)."""
        return weights
