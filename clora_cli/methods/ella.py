"""Keep the new LoRA's delta small where the sum of earlier ones is large."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from clora_cli.algebra.lora import row_tiles
from clora_cli.base.intervals import check_option
from clora_cli.methods import Factors, Method, Penalty

__all__ = ["Ella"]

_TILE = 1 << 18  # entries of the delta held at one time


@dataclass(frozen=True, kw_only=True)
class Ella(Method):
    """Keep the new LoRA's delta small where the sum of earlier ones is large.

    ``L = strength * sum_sites sum_ij (w_ij P_ij / rms(P))^2`` with the new delta ``w = scaling * B A`` and the sum P of the
    earlier deltas at that site. Where P is small the new delta is free. The cost does not grow with the number of tasks.

    Args:
        strength: The weight of the term, at least 0.

    References:
        Das Biswas et al., ELLA: Efficient Lifelong Learning for Adapters in Large Language Models, EACL 2026,
        arXiv:2601.02232. The paper was not at hand; that the entrywise product with the sum of earlier deltas is squared and added up is
        what public code has that trains by it (alexandra-dragomir/JumpLoRA, ``ella/core.py``).
        Differs: P is divided by its root mean square, so that a strength means the same on every model; that code has a mean over
        layers, P as it is, and a strength of 30,000. The default is ps-lora's.
        Differs: the delta includes LoRA's scaling.
    """

    strength: float = 0.01

    def __post_init__(self) -> None:
        """Check the option."""
        check_option("ella", "strength", self.strength, "[0, inf)")

    def penalty(self, factors: Factors) -> Penalty | None:
        """Return the energy of the overlap and its gradient, in tiles of rows; None without a past."""
        if not factors.has_past:
            return None
        out, inner = factors.b.shape[1], factors.a.shape[2]
        value = factors.a.new_zeros(())
        grad_a, grad_b = torch.zeros_like(factors.a), torch.zeros_like(factors.b)
        for site, (a, b) in enumerate(zip(factors.a, factors.b, strict=True)):
            energy = factors.past_energy(site) / (out * inner)
            for rows in row_tiles(out, inner, _TILE):
                past = factors.past_rows(site, rows)
                if past is None or not energy:
                    continue
                weighted = (factors.scaling * b[rows] @ a) * past / math.sqrt(energy)
                value += weighted.square().sum()
                slope = 2 * factors.scaling / math.sqrt(energy) * weighted * past
                grad_b[site, rows] = slope @ a.mT
                grad_a[site] += b[rows].mT @ slope
        return Penalty(self.strength * value, grad_a=self.strength * grad_a, grad_b=self.strength * grad_b)
