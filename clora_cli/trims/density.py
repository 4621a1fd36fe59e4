"""Keep the largest entries, a given share of them."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from clora_cli.errors import OptionError
from clora_cli.trims import Entries, Kept, Trim

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
        if not 0 < self.density <= 1:
            raise OptionError(f"option density={self.density} of density: give a share in (0, 1]")

    def keep(self, entries: Entries) -> Kept:
        """Keep that share, by magnitude."""
        wanted = max(1, round(self.density * len(entries.values)))
        mask = torch.zeros(len(entries.values), dtype=torch.bool)
        mask[entries.values.abs().argsort(descending=True, stable=True)[:wanted]] = True
        return Kept(mask)
