"""Bring all deltas to their mean norm, add up."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from clora_cli.merges import Deltas, Merge

__all__ = ["Balanced"]


@dataclass(frozen=True, kw_only=True)
class Balanced(Merge):
    """Bring all deltas to their mean norm, add up.

    ``merged = sum_i w_i * delta_i * m / ||delta_i||_F`` at each site, with the mean m of the norms there: no adapter
    counts for more because it was trained for longer. A delta of 0 stays 0 and counts in the mean.

    References:
        Ilharco et al., Editing Models with Task Arithmetic, 2022, arXiv:2212.04089, section 2.
        Differs: there the deltas are added up as they are.
    """

    def merge(self, deltas: Deltas) -> Tensor:
        """Return the merged delta, shape (out, in)."""
        norms = torch.stack([delta.norm() for delta in deltas])
        factors = (norms.mean() / norms).masked_fill(norms == 0, 0) * deltas.weights.to(norms.dtype)
        total: Tensor | None = None
        for factor, delta in zip(factors, deltas, strict=True):
            delta.mul_(factor)  # each delta is ours to change until the next one comes
            total = delta.clone() if total is None else total.add_(delta)
        return torch.zeros(()) if total is None else total
