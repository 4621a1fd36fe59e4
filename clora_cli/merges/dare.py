"""Drop entries of each adapter at random, rescale the others, add up."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from clora_cli.base.intervals import check_option
from clora_cli.merges import Deltas, Merge
from clora_cli.merges._combine import weighted_sum
from clora_cli.merges._prune import drop

__all__ = ["Dare"]


@dataclass(frozen=True, kw_only=True)
class Dare(Merge):
    """Drop entries of each adapter at random, rescale the others, add up.

    ``merged = sum_i w_i m_i * delta_i / density`` with masks m_i that are 1 with probability ``density``: in expectation
    the weighted sum. The weights are used as they are, of either sign.

    Args:
        density: The probability that an entry is kept, above 0 and up to 1.

    References:
        Yu et al., Language Models are Super Mario: Absorbing Abilities from Homologous Models as a Free Lunch, 2023,
        arXiv:2311.03099.
        Differs: the default density is ours; the paper drops up to 0.99 of much larger models.
    """

    density: float = 0.5

    def __post_init__(self) -> None:
        """Check the option."""
        check_option("dare", "density", self.density, "(0, 1]")

    def merge(self, deltas: Deltas) -> Tensor:
        """Return the merged delta, shape (rows, in)."""
        kept = (drop(delta, self.density, deltas.generator(number)) for number, delta in enumerate(deltas))
        return weighted_sum(deltas.weights, kept)
