"""Keep the largest entries that hold a given share of the energy."""

from __future__ import annotations

from dataclasses import dataclass

from clora_cli.base.intervals import check_option
from clora_cli.trims import Entries, Kept, Trim

__all__ = ["Energy"]


@dataclass(frozen=True, kw_only=True)
class Energy(Trim):
    """Keep the largest entries that hold a given share of the energy.

    The energy is the sum of squares. The fewest entries stay with which ``sum_kept v^2 >= share * sum v^2``; of equal
    ones all or none.

    Args:
        share: The share of the energy that stays, in (0, 1].

    References:
        Han et al., Learning both Weights and Connections for Efficient Neural Networks, 2015, arXiv:1506.02626.
        Differs: the threshold follows from the energy; the paper gives it as a multiple of the standard deviation.
    """

    share: float = 0.9

    def __post_init__(self) -> None:
        """Check the option."""
        check_option("energy", "share", self.share, "(0, 1]")

    def keep(self, entries: Entries) -> Kept:
        """Keep what reaches the magnitude at which the share is full."""
        squares = entries.values.detach().cpu().double().square()
        largest = squares.sort(descending=True).values
        held = largest.cumsum(dim=0)
        last = int((held < self.share * held[-1]).sum().clamp(max=len(held) - 1))
        return Kept(squares >= largest[last])
