"""Drop entries at random, the smaller the likelier, rescale the others, elect a sign at every position, average."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from clora_cli.base.errors import OptionError
from clora_cli.base.intervals import check_option
from clora_cli.merges import Deltas, Merge
from clora_cli.merges._combine import Election
from clora_cli.merges._prune import drop

__all__ = ["Della"]


@dataclass(frozen=True, kw_only=True)
class Della(Merge):
    """Drop entries at random, the smaller the likelier, rescale the others, elect a sign at every position, average.

    An entry of rank r among the n of its row, 0 for the largest magnitude, is dropped with probability
    ``p_r = p - epsilon / 2 + epsilon * r / n``, where ``p = 1 - density``, else divided by ``1 - p_r``. Then as in ``ties``.
    The weights are relative; a negative one turns its adapter around.

    Args:
        density: The probability that a middling entry is kept, above 0 and up to 1.
        epsilon: How far the probabilities within a row lie apart, at least 0; ``dare-ties`` at 0. No probability may leave
            0 to 1: at most twice the smaller of ``density`` and ``1 - density``.
        scale: The factor of the result (the paper's lambda), any number.

    References:
        Deep et al., DELLA-Merging: Reducing Interference in Model Merging through Magnitude-Based Sampling, 2024,
        arXiv:2406.11617.
        Differs: the paper tunes all three options; the defaults are ours. Equal magnitudes rank by column.
    """

    density: float = 0.5
    epsilon: float = 0.2
    scale: float = 1.0

    def __post_init__(self) -> None:
        """Check the options."""
        check_option("della", "density", self.density, "(0, 1]")
        check_option("della", "scale", self.scale, "(-inf, inf)")
        room = round(2 * min(self.density, 1 - self.density), 9)  # 2 * (1 - 0.9) is less than 0.2
        if not 0 <= self.epsilon <= room:
            raise OptionError(
                f"option epsilon={self.epsilon} of della: give a number from 0 to {room:g}, which density={self.density} leaves",
                code="option-out-of-range",
            )

    def merge(self, deltas: Deltas) -> Tensor:
        """Return the merged delta, shape (rows, in)."""
        election = Election()
        for number, (weight, delta) in enumerate(zip(deltas.weights.tolist(), deltas, strict=True)):
            election.add(weight, drop(delta, self.chances(delta), deltas.generator(number)))
        return election.mean().mul_(self.scale)

    def chances(self, delta: Tensor) -> Tensor:
        """Return the probability ``1 - p_r`` that each entry is kept, shape (rows, in)."""
        columns = delta.shape[1]
        ranks = torch.arange(columns, dtype=delta.dtype, device=delta.device)
        by_rank = (self.density + self.epsilon / 2 - self.epsilon * ranks / columns).clamp_(max=1)
        order = delta.abs().argsort(dim=1, descending=True, stable=True)
        return torch.empty_like(delta).scatter_(1, order, by_rank.expand_as(delta))
