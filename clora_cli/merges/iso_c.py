"""Add the adapters up and give all singular values of the sum their mean."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from clora_cli.algebra.lora import Factor
from clora_cli.base.intervals import check_option
from clora_cli.merges import Deltas, Merge
from clora_cli.merges._cores import Cores

__all__ = ["IsoC"]


@dataclass(frozen=True, kw_only=True)
class IsoC(Merge):
    """Add the adapters up and give all singular values of the sum their mean.

    ``sum_i w_i delta_i = U diag(s) V^T`` becomes ``scale * U diag(s + isotropy (mean(s) - s)) V^T``: no task's strong
    directions drown those of others. Exact on factors.

    Args:
        isotropy: How far singular values go to their mean, in [0, 1]; 1 is the paper's.
        scale: The factor of the result (the paper's alpha), any number.

    References:
        Marczak et al., No Task Left Behind: Isotropic Model Merging with Common and Task-Specific Subspaces, 2025,
        arXiv:2502.04959: Iso-C.
        Differs: the mean is over the singular values that are not 0. Of whole models' deltas none is; the sum of a few LoRAs has
        zeros for most, whose directions are arbitrary.
    """

    isotropy: float = 1.0
    scale: float = 1.0

    low_rank = True

    def __post_init__(self) -> None:
        """Check the options."""
        check_option("iso-c", "isotropy", self.isotropy, "[0, 1]")
        check_option("iso-c", "scale", self.scale, "(-inf, inf)")

    def merge(self, deltas: Deltas) -> Factor | Tensor:
        """Return the merged delta, factors of factors."""
        cores = Cores(deltas)
        total: Tensor | None = None
        for core in cores.weighted():
            total = core if total is None else total + core
        left, sizes, right = cores.singular(total if total is not None else torch.zeros(1, 1))
        sizes = torch.lerp(sizes, sizes.mean() if len(sizes) else sizes, self.isotropy)
        return cores.whole(self.scale * (left * sizes) @ right)
