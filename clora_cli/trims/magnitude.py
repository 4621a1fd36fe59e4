"""Keep the entries of at least a given magnitude."""

from __future__ import annotations

from dataclasses import dataclass

from clora_cli.base.errors import OptionError
from clora_cli.base.intervals import check_option
from clora_cli.trims import Entries, Kept, Trim

__all__ = ["Magnitude"]


@dataclass(frozen=True, kw_only=True)
class Magnitude(Trim):
    """Keep the entries of at least a given magnitude.

    Args:
        threshold: The least magnitude that stays, above 0. It has to be given: what is small depends on the adapter.

    References:
        Han et al., Learning both Weights and Connections for Efficient Neural Networks, 2015, arXiv:1506.02626.
        Differs: the threshold is given as it is; the paper has it as a multiple of a layer's standard deviation.
    """

    threshold: float | None = None

    def __post_init__(self) -> None:
        """Check the option."""
        check_option("magnitude", "threshold", self.threshold, "(0, inf)")

    def keep(self, entries: Entries) -> Kept:
        """Keep what reaches the threshold, which may be nothing."""
        if self.threshold is None:
            raise OptionError(
                "magnitude has no threshold: give the least magnitude that stays, as threshold=0.001",
                code="option-missing",
            )
        return Kept(entries.values.detach().cpu().abs() >= self.threshold)
