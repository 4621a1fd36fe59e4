"""Add the last adapter to the others with those of its entries alone whose sign agrees with their sum, or does not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from clora_cli.base.intervals import check_option
from clora_cli.merges import Deltas, Merge

__all__ = ["SignPart"]


@dataclass(frozen=True, kw_only=True)
class SignPart(Merge):
    """Add the last adapter to the others with those of its entries alone whose sign agrees with their sum, or does not.

    ``merged = P + delta_t * M`` with ``P = sum_{i<t} w_i delta_i`` and M that marks, of the smallest ``share`` of delta_t's entries by
    magnitude, those with ``delta_t P >= 0`` (``same``), with ``delta_t P < 0`` (``opposite``), or all (``both``): what large updates
    of opposite sign do to earlier tasks. The last adapter is the last one given.

    Args:
        keep: Which entries.
        share: The share of each site's entries of the last delta that may stay, the smallest by magnitude, in (0, 1].

    References:
        Zhou et al., Resolving Conflicts in Lifelong Learning via Aligning Updates in Subspaces (PS-LoRA), 2025,
        arXiv:2512.08960, section 3.2, figure 3, whose bottom-k% are ``share``.
        Differs: where P is 0 an entry counts as of the same sign.
        Differs: the smallest of each site, where the paper does not say among which entries.
    """

    keep: Literal["same", "opposite", "both"] = "same"
    share: float = 1.0

    ordered = True
    last_apart = True

    def __post_init__(self) -> None:
        """Check the option."""
        check_option("sign-part", "share", self.share, "(0, 1]")

    def merge(self, deltas: Deltas) -> Tensor:
        """Return the merged delta, shape (out, in)."""
        past = last = torch.zeros(())
        for delta in deltas.weighted():
            past, last = past + last, delta.clone()
        return past + last * self._marked(last, past)

    def _marked(self, last: Tensor, past: Tensor) -> Tensor:
        against, sizes = last * past < 0, last.abs()
        count = max(1, round(self.share * last.numel()))
        small = sizes <= sizes.flatten().kthvalue(count).values
        return small & {"same": ~against, "opposite": against, "both": torch.ones_like(against)}[self.keep]
