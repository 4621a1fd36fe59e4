"""Align the adapters in the output directions of all, merge there as ties does."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from clora_cli.algebra.lora import Factor
from clora_cli.base.intervals import check_option
from clora_cli.merges import Deltas, Merge
from clora_cli.merges._combine import Election
from clora_cli.merges._cores import Cores
from clora_cli.merges._prune import keep_largest

__all__ = ["Knots"]

_ROUNDING = 1e-6  # of the V_i^T, which come of deltas in float32


@dataclass(frozen=True, kw_only=True)
class Knots(Merge):
    """Align the adapters in the output directions of all, merge there as ties does.

    ``[delta_1, ..., delta_T] = U S [V_1^T, ..., V_T^T]`` side by side. The V_i^T are merged entry by entry as in ``ties``: trimmed,
    a sign elected, those averaged that have it. ``merged = scale * U S V^T``. Exact on factors. The weights are relative; a
    negative one turns its adapter around.

    Args:
        density: The share of each V_i's entries that is kept, the largest by magnitude; above 0, up to 1.
        scale: The factor of the result, any number.

    References:
        Stoica et al., Model Merging with SVD to Tie the Knots (KnOTS), ICLR 2025, arXiv:2410.19735: KnOTS-TIES.
        Differs: directions whose singular value is below a ten-millionth of the largest are left out.
    """

    density: float = 0.2
    scale: float = 1.0

    low_rank = True

    def __post_init__(self) -> None:
        """Check the options."""
        check_option("knots", "density", self.density, "(0, 1]")
        check_option("knots", "scale", self.scale, "(-inf, inf)")

    def merge(self, deltas: Deltas) -> Factor | Tensor:
        """Return the merged delta, factors of factors."""
        cores, gram = Cores(deltas), torch.zeros(1, 1, dtype=torch.float64)
        for core in cores:
            gram = gram + core @ core.mT
        energies, left = torch.linalg.eigh(gram)  # U, and the squares of S
        real = energies > 1e-14 * energies.max()
        left, sizes = left[:, real], energies[real].sqrt()
        if not len(sizes):
            return cores.whole(torch.zeros_like(next(iter(cores))))
        election = Election(_ROUNDING)
        for weight, core in zip(deltas.weights.tolist(), cores, strict=True):
            election.add(weight, keep_largest(cores.rows((left.mT @ core) / sizes[:, None]), self.density))
        return cores.of_rows(self.scale * left * sizes, election.mean())
