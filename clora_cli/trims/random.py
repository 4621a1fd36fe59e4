"""Keep entries at random, a given share of them: the baseline for any other trim."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from clora_cli.base.intervals import check_option
from clora_cli.trims import Entries, Kept, Trim
from clora_cli.trims._curve import largest

__all__ = ["Random"]


@dataclass(frozen=True, kw_only=True)
class Random(Trim):
    """Keep entries at random, a given share of them: the baseline for any other trim.

    Args:
        density: The share of entries that stay, in (0, 1]; exactly this share, at least one entry.

    References:
        Dropping at random is that of Yu et al., Language Models are Super Mario: Absorbing Abilities from Homologous
        Models as a Free Lunch, 2023, arXiv:2311.03099.
        Differs: what stays is not rescaled, as with all trims, and the share is met exactly.
    """

    density: float = 0.1

    def __post_init__(self) -> None:
        """Check the option."""
        check_option("random", "density", self.density, "(0, 1]")

    def keep(self, entries: Entries) -> Kept:
        """Keep that share, drawn with the entries' seed; their values do not matter."""
        drawn = torch.rand(len(entries.values), generator=torch.Generator().manual_seed(entries.seed))
        return Kept(torch.from_numpy(largest(drawn.numpy(), max(1, round(self.density * len(drawn))))))
