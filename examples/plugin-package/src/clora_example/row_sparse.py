"""Keep few rows of the new delta: a group lasso over outputs."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from clora_cli.base.intervals import check_option
from clora_cli.methods import Factors, Method, Penalty

__all__ = ["RowSparse"]


@dataclass(frozen=True, kw_only=True)
class RowSparse(Method):
    """Keep few rows of the new delta: a group lasso over outputs.

    ``L = strength * sum_sites sum_i ||delta_i||_2`` where delta_i is row i of ``delta = scaling * B A``. With the Gram
    matrix G = A A^T of shape (rank, rank) it is ``||delta_i|| = scaling * sqrt(B_i G B_i^T)``: no delta is formed.

    Args:
        strength: The weight of the term, at least 0.

    References:
        Wen et al., Learning Structured Sparsity in Deep Neural Networks, 2016, arXiv:1608.03665, eq. 2.
        Differs: the groups are rows of a LoRA's delta, not filters and channels of the weights themselves.
    """

    strength: float = 0.01

    def __post_init__(self) -> None:
        """Check the options."""
        check_option("row-sparse", "strength", self.strength, "[0, inf)")

    def penalty(self, factors: Factors) -> Penalty | None:
        """Return the sum of the rows' norms and its gradient; 0 where a row is 0."""
        a, b = factors.a, factors.b
        weight = self.strength * factors.scaling
        along = b @ (a @ a.mT)  # (site, out, rank): B G
        norms = (along * b).sum(dim=-1, keepdim=True).clamp(min=0).sqrt()  # (site, out, 1)
        shares = _inverse(norms)
        return Penalty(weight * norms.sum(), grad_a=weight * ((b * shares).mT @ b @ a), grad_b=weight * shares * along)


def _inverse(norms: Tensor) -> Tensor:
    return norms.reciprocal().masked_fill(norms == 0, 0)
