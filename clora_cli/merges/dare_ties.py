"""Drop entries of each adapter at random, rescale the others, elect a sign at every position, average those that have it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from clora_cli.base.intervals import check_option
from clora_cli.merges import Deltas, Merge
from clora_cli.merges._combine import Election
from clora_cli.merges._prune import drop

__all__ = ["DareTies"]


@dataclass(frozen=True, kw_only=True)
class DareTies(Merge):
    """Drop entries of each adapter at random, rescale the others, elect a sign at every position, average those that have it.

    ``dare`` before ``ties``: what is dropped by chance takes the place of what is trimmed. The weights are relative; a
    negative one turns its adapter around.

    Args:
        density: The probability that an entry is kept, above 0 and up to 1.
        scale: The factor of the result, any number.

    References:
        Yu et al., Language Models are Super Mario: Absorbing Abilities from Homologous Models as a Free Lunch, 2023,
        arXiv:2311.03099; Yadav et al., TIES-Merging: Resolving Interference When Merging Models, 2023, arXiv:2306.01708.
        Differs: nothing is trimmed beside what is dropped; the default density is ours.
    """

    density: float = 0.5
    scale: float = 1.0

    def __post_init__(self) -> None:
        """Check the options."""
        check_option("dare-ties", "density", self.density, "(0, 1]")
        check_option("dare-ties", "scale", self.scale, "(-inf, inf)")

    def merge(self, deltas: Deltas) -> Tensor:
        """Return the merged delta, shape (rows, in)."""
        election = Election()
        for number, (weight, delta) in enumerate(zip(deltas.weights.tolist(), deltas, strict=True)):
            election.add(weight, drop(delta, self.density, deltas.generator(number)))
        return election.mean().mul_(self.scale)
