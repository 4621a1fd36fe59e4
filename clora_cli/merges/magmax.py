"""Keep, at every position, the entry of largest magnitude."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from clora_cli.merges import Deltas, Merge

__all__ = ["Magmax"]


@dataclass(frozen=True, kw_only=True)
class Magmax(Merge):
    """Keep, at every position, the entry of largest magnitude.

    ``merged[i, j] = delta_k[i, j]`` with the k of largest ``|w_k delta_k[i, j]|``; of equal ones the later adapter wins,
    so that merging one after another gives what merging all at once gives.

    References:
        Zhou et al., Resolving Conflicts in Lifelong Learning via Aligning Updates in Subspaces (PS-LoRA), 2025,
        arXiv:2512.08960, eq. 5; Marczak et al., MagMax, 2024, arXiv:2407.06322.
        Differs: weights, where given, scale the deltas before they are compared.
    """

    by_rows = True

    def merge(self, deltas: Deltas) -> Tensor:
        """Return the merged delta, shape (rows, in)."""
        best: Tensor | None = None
        for delta in deltas.weighted():
            best = delta if best is None else torch.where(delta.abs() >= best.abs(), delta, best)
        return best  # type: ignore[return-value]  # there is at least one adapter
