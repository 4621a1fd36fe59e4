"""Add the adapters up, each times its weight; negative weights subtract."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from clora_cli.merges import Merge

__all__ = ["Linear"]


@dataclass(frozen=True, kw_only=True)
class Linear(Merge):
    """Add the adapters up, each times its weight; negative weights subtract.

    ``merged = sum_i w_i delta_i``, exactly. The weights are used as they are, of either sign: 1 and -1 give the
    difference of two adapters.

    References:
        Ilharco et al., Editing Models with Task Arithmetic, 2023, arXiv:2212.04089.
        Differs: PEFT's ``linear`` combines A and B apart, which is another function with cross terms; its ``cat`` is
        this one.
    """

    linear = True

    def coefficients(self, weights: Tensor) -> Tensor:
        """Return the weights, shape (adapter,)."""
        return weights
