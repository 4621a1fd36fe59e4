"""Keep the largest entries, a given share of them."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from clora_cli.base.intervals import check_option
from clora_cli.trims import Entries, Kept, Trim
from clora_cli.trims._curve import largest, magnitudes_of

__all__ = ["Density"]


@dataclass(frozen=True, kw_only=True)
class Density(Trim):
    """Keep the largest entries, a given share of them.

    Args:
        density: The share of entries that stay, in (0, 1]; at least one entry stays. Of equal ones the earlier stays.

    References:
        Han et al., Learning both Weights and Connections for Efficient Neural Networks, 2015, arXiv:1506.02626.
    """

    density: float = 0.1

    def __post_init__(self) -> None:
        """Check the option."""
        check_option("density", "density", self.density, "(0, 1]")

    def keep(self, entries: Entries) -> Kept:
        """Keep that share, by magnitude."""
        wanted = max(1, round(self.density * len(entries.values)))
        return Kept(torch.from_numpy(largest(magnitudes_of(entries.values), wanted)))
