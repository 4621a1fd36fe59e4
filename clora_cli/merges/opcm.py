"""Add one adapter after the other, each without what lies along the strong directions of those before it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from clora_cli.algebra.lora import Factor
from clora_cli.base.intervals import check_option
from clora_cli.merges import Deltas, Merge
from clora_cli.merges._cores import Cores

__all__ = ["Opcm"]


@dataclass(frozen=True, kw_only=True)
class Opcm(Merge):
    """Add one adapter after the other, each without what lies along the strong directions of those before it.

    In the singular basis ``M = U S V^T`` of what was merged so far, the next delta is ``U^T delta V``. Its diagonal, and its block
    of the leading directions that hold ``alpha`` of the sum of singular values, are taken out, and the rest is added to M.
    At the end M is scaled to the mean norm of the deltas. The adapters' order matters. Exact on factors. At a layer that an adapter
    lacks it does not count, nor for the mean norm.

    Args:
        alpha: The share of the sum of singular values that leading directions hold, in [0, 1]; 0 takes the diagonal alone.

    References:
        Tang et al., Merging Models on the Fly Without Retraining: A Sequential Approach to Scalable Continual Model Merging
        (OPCM), NeurIPS 2025, arXiv:2501.09522; alpha 0.5 and the norm are the published code's (fusion_bench).
        Differs: norms are those of one site, where the code takes the whole model's.
        Differs: the direction with which the share is reached is among the leading ones; the code's side was not checked.
        Differs: directions of M with a singular value of 0 are arbitrary, and no diagonal is taken out there.
    """

    alpha: float = 0.5

    low_rank = True
    ordered = True

    def __post_init__(self) -> None:
        """Check the option."""
        check_option("opcm", "alpha", self.alpha, "[0, 1]")

    def merge(self, deltas: Deltas) -> Factor | Tensor:
        """Return the merged delta, factors of factors."""
        cores = Cores(deltas)
        merged, norms = torch.zeros(1, 1), list[Tensor]()
        for core in cores.weighted():
            merged = self.without(core, *cores.singular(merged)) + merged if norms else core
            norms.append(core.norm())
        size = merged.norm()
        return cores.whole(merged * (torch.stack(norms).mean() / size if size else 0))

    def without(self, core: Tensor, left: Tensor, sizes: Tensor, right: Tensor) -> Tensor:
        """Return a core without its diagonal and its leading block in a singular basis."""
        within = left.mT @ core @ right.mT
        leading = (
            sizes.cumsum(dim=0) - sizes < (self.alpha - 1e-12) * sizes.sum()
        )  # the one that reaches the share is in it
        gone = (leading[:, None] & leading) | torch.eye(len(sizes), dtype=torch.bool)
        return core - left @ (within * gone) @ right
