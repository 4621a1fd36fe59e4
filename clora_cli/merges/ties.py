"""Trim each adapter, elect a sign at every position, average those that have it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from clora_cli.base.intervals import check_option
from clora_cli.merges import Deltas, Merge
from clora_cli.merges._combine import Election
from clora_cli.merges._prune import keep_largest

__all__ = ["Ties"]


@dataclass(frozen=True, kw_only=True)
class Ties(Merge):
    """Trim each adapter, elect a sign at every position, average those that have it.

    ``merged[i, j] = scale * sum_k w_k delta_k[i, j] / sum_k w_k`` over the adapters k whose trimmed entry has the sign of
    ``sum_k w_k delta_k[i, j]``. The weights are relative; a negative one turns its adapter around.

    Args:
        density: The share of each adapter's entries that is kept at each site, the largest by magnitude; above 0, up to 1.
        scale: The factor of the result (the paper's lambda), any number.

    References:
        Yadav et al., TIES-Merging: Resolving Interference When Merging Models, 2023, arXiv:2306.01708.
        Differs: trimmed site by site, not over all sites at once; where the weighted sum is 0, so is the result.
    """

    density: float = 0.2
    scale: float = 1.0

    def __post_init__(self) -> None:
        """Check the options."""
        check_option("ties", "density", self.density, "(0, 1]")
        check_option("ties", "scale", self.scale, "(-inf, inf)")

    def merge(self, deltas: Deltas) -> Tensor:
        """Return the merged delta, shape (rows, in)."""
        election = Election()
        for weight, delta in zip(deltas.weights.tolist(), deltas, strict=True):
            election.add(weight, keep_largest(delta, self.density))
        return election.mean().mul_(self.scale)
