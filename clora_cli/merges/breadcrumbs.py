"""Drop the largest and the smallest entries of each adapter, add up."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from clora_cli.base.errors import OptionError
from clora_cli.base.intervals import check_option
from clora_cli.merges import Deltas, Merge
from clora_cli.merges._combine import weighted_sum
from clora_cli.merges._prune import keep_largest

__all__ = ["Breadcrumbs"]


@dataclass(frozen=True, kw_only=True)
class Breadcrumbs(Merge):
    """Drop the largest and the smallest entries of each adapter, add up.

    ``merged = scale * sum_i w_i m_i * delta_i``, where m_i leaves out the ``outliers`` share of largest magnitude and all
    that is smaller than the ``density`` share that follows. The weights are used as they are, of either sign.

    Args:
        density: The share of each adapter's entries that is kept at each site; above 0, with ``outliers`` up to 1.
        outliers: The share of each adapter's entries at each site that is dropped for being the largest; at least 0.
        scale: The factor of the result (the paper's alpha), any number.

    References:
        Davari and Belilovsky, Model Breadcrumbs: Scaling Multi-Task Model Merging with Sparse Masks, 2023,
        arXiv:2312.06795.
        Differs: the paper tunes both thresholds and the scale; the defaults are ours.
    """

    density: float = 0.15
    outliers: float = 0.01
    scale: float = 1.0

    def __post_init__(self) -> None:
        """Check the options."""
        check_option("breadcrumbs", "density", self.density, "(0, 1]")
        check_option("breadcrumbs", "scale", self.scale, "(-inf, inf)")
        room = round(1 - self.density, 9)  # 1 - 0.9 is less than 0.1
        if not 0 <= self.outliers <= room:
            raise OptionError(
                f"option outliers={self.outliers} of breadcrumbs: give a number from 0 to {room:g}, which density={self.density} leaves",
                code="option-out-of-range",
            )

    def merge(self, deltas: Deltas) -> Tensor:
        """Return the merged delta, shape (rows, in)."""
        kept = (keep_largest(delta, self.density, self.outliers) for delta in deltas)
        return weighted_sum(deltas.weights, kept).mul_(self.scale)
