"""Keep the largest entries of each adapter, add up."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from clora_cli.base.intervals import check_option
from clora_cli.merges import Deltas, Merge
from clora_cli.merges._combine import weighted_sum
from clora_cli.merges._prune import keep_largest

__all__ = ["Magnitude"]


@dataclass(frozen=True, kw_only=True)
class Magnitude(Merge):
    """Keep the largest entries of each adapter, add up.

    ``merged = sum_i w_i trim(delta_i)``. The weights are used as they are, of either sign.

    Args:
        density: The share of each adapter's entries that is kept at each site, the largest by magnitude; above 0, up to 1.

    References:
        Pruning by magnitude: Han et al., Learning both Weights and Connections for Efficient Neural Networks, 2015,
        arXiv:1506.02626; as a merge it is PEFT's ``magnitude_prune``.
        Differs: the product ``scaling * B A`` is pruned, never A and B apart; the default density is ours.
    """

    density: float = 0.5

    def __post_init__(self) -> None:
        """Check the option."""
        check_option("magnitude", "density", self.density, "(0, 1]")

    def merge(self, deltas: Deltas) -> Tensor:
        """Return the merged delta, shape (rows, in)."""
        return weighted_sum(deltas.weights, (keep_largest(delta, self.density) for delta in deltas))
