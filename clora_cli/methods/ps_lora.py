"""Keep the new LoRA's delta small where its sign is opposite to that of the past."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from clora_cli.algebra.lora import row_tiles
from clora_cli.base.errors import OptionError
from clora_cli.base.intervals import check_option
from clora_cli.methods import Factors, Method, Penalty

__all__ = ["PsLora"]

_TILE = 1 << 18  # entries of the delta held at one time: 1 MB each for the delta and the few that come of it


@dataclass(frozen=True, kw_only=True)
class PsLora(Method):
    """Keep the new LoRA's delta small where its sign is opposite to that of the past.

    ``L = strength * sum_sites sum_ij w^2 (1 - tanh(alpha w) tanh(alpha P))`` with the new delta ``w = scaling * B A``,
    the past P and, at each site, ``alpha = temperature / rms(P)`` (eq. 4). Without a past it is
    ``strength * sum_sites ||w||_F^2``.

    ``clora merge PACKAGE --strategy magmax`` is the second half of the published algorithm (eq. 5).

    Args:
        strength: The weight of the term (the paper's lambda), at least 0; the paper has 0.001 to 0.1.
        temperature: How sharply signs are told apart, above 0: of entries far above ``rms(P) / temperature`` only the sign counts.
            1 where neither of the two is given.
        raw_temperature: The paper's alpha itself, per unit of weight, the same at every site, instead of ``temperature``.
        past: The tensor that is P and takes part in the forward pass: the ``sum`` of the earlier deltas, as in eq. 4, or
            their running ``magmax`` merge, as in Algorithm 1; then the package is evaluated as such a merge too.
        terms: ``both``; ``magnitude`` alone, ``sum w^2``; or ``sign`` alone, the mean over entries of
            ``1 - tanh tanh`` summed over sites, for the paper's ablation.
        reading: ``elementwise`` as above, or ``scalar-mean``: ``||w||_F^2`` times the mean over entries of
            ``1 - tanh tanh``, site by site, which is eq. 4 read literally.
        first: Whether the first task, which has no past, is held small too, by ``||w||_F^2``.

    References:
        Zhou et al., Resolving Conflicts in Lifelong Learning via Aligning Updates in Subspaces (PS-LoRA), 2025,
        arXiv:2512.08960, eq. 4-5, Algorithm 1.
        Differs: eq. 4 multiplies a scalar norm by a matrix; ``elementwise`` is the reading under which large updates of
        opposite sign are what is penalised, as the paper says.
        Differs: alpha is not published. Deltas of small and of large models differ a hundredfold in size, so the default
        is relative to the past's; docs/results.md shows how little depends on it.
        Differs: the delta includes LoRA's scaling, which is 1 in the paper.
        Differs: dropout as in inc-lora.
    """

    strength: float = 0.01
    temperature: float | None = None
    raw_temperature: float | None = None
    past: Literal["sum", "magmax"] = "sum"
    terms: Literal["both", "magnitude", "sign"] = "both"
    reading: Literal["elementwise", "scalar-mean"] = "elementwise"
    first: bool = True

    def __post_init__(self) -> None:
        """Check the options."""
        check_option("ps-lora", "strength", self.strength, "[0, inf)")
        if self.temperature is not None and self.raw_temperature is not None:
            raise OptionError(
                "options temperature and raw_temperature of ps-lora exclude each other",
                code="options-exclude-each-other",
            )
        for name in ("temperature", "raw_temperature"):
            check_option("ps-lora", name, getattr(self, name), "(0, inf)")
        if self.temperature is None and self.raw_temperature is None:
            object.__setattr__(self, "temperature", 1.0)

    @property
    def combine(self) -> str:  # type: ignore[override]
        """What took part in the forward pass during training is what is evaluated."""
        return self.past

    def penalty(self, factors: Factors) -> Penalty | None:
        """Return the stability loss of one stack of sites; None without a past where nothing is asked for then."""
        if not factors.has_past and (self.terms == "sign" or not self.first):
            return None
        if self.terms == "magnitude" or not factors.has_past:
            return _frobenius(factors, self.strength)
        totals = torch.zeros((), dtype=factors.a.dtype, device=factors.a.device)
        grad_a, grad_b = torch.zeros_like(factors.a), torch.empty_like(factors.b)
        for site in range(factors.a.shape[0]):
            totals += self._site(factors, site, grad_a[site], grad_b[site])
        return Penalty(self.strength * totals, grad_a=self.strength * grad_a, grad_b=self.strength * grad_b)

    def _site(self, factors: Factors, site: int, grad_a: Tensor, grad_b: Tensor) -> Tensor:
        """Fill one site's gradients, in tiles of rows, and return its value."""
        alpha, size = self._alpha(factors, site), factors.b.shape[1] * factors.a.shape[2]
        energy, disagreement = _means(factors, site, alpha) if self.reading == "scalar-mean" else (0.0, 0.0)
        value = torch.zeros((), dtype=factors.a.dtype, device=factors.a.device)
        for rows in _tiles(factors):
            delta, new, old = _signs(factors, site, rows, alpha)
            slope = (new.square() - 1).mul_(old).mul_(alpha)  # of 1 - tanh(alpha w) tanh(alpha P)
            if self.terms == "sign":
                value += (1 - new * old).sum() / size
                slope.div_(size)
            elif self.reading == "scalar-mean":
                slope.mul_(energy / size).add_(delta, alpha=2 * disagreement)
            else:
                share, squared = 1 - new * old, delta.square()
                value += (squared * share).sum()
                slope.mul_(squared).addcmul_(delta, share, value=2)
            slope.mul_(factors.scaling)
            torch.mm(slope, factors.a[site].mT, out=grad_b[rows])
            grad_a.addmm_(factors.b[site, rows].mT, slope)
        return value + energy * disagreement if self.terms == "both" else value

    def _alpha(self, factors: Factors, site: int) -> float:
        if self.raw_temperature is not None:
            return self.raw_temperature
        energy, size = factors.past_energy(site), factors.b.shape[1] * factors.a.shape[2]
        return (self.temperature or 0.0) / math.sqrt(energy / size) if energy else 0.0


def _means(factors: Factors, site: int, alpha: float) -> tuple[float, float]:
    """Return ``||w||_F^2`` and the mean of ``1 - tanh tanh`` over a site's entries."""
    energy = disagreement = 0.0
    for rows in _tiles(factors):
        delta, new, old = _signs(factors, site, rows, alpha)
        energy += delta.square().sum().item()
        disagreement += (1 - new * old).sum().item()
    return energy, disagreement / (factors.b.shape[1] * factors.a.shape[2])


def _signs(factors: Factors, site: int, rows: slice, alpha: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return some rows of the new delta, and the soft signs of it and of the past."""
    delta = (factors.b[site, rows] * factors.scaling) @ factors.a[site]
    past = factors.past_rows(site, rows)
    old = torch.zeros_like(delta) if past is None else past.mul(alpha).tanh_()
    return delta, (delta * alpha).tanh_(), old


def _frobenius(factors: Factors, strength: float) -> Penalty:
    """Return ``strength * sum ||scaling * B A||_F^2`` from the factors' Gram matrices, (rank, rank) each."""
    weight = strength * factors.scaling**2
    gram_a, gram_b = factors.a @ factors.a.mT, factors.b.mT @ factors.b
    value = weight * (gram_a * gram_b).sum()
    return Penalty(value, grad_a=2 * weight * (gram_b @ factors.a), grad_b=2 * weight * (factors.b @ gram_a))


def _tiles(factors: Factors) -> Iterator[slice]:
    return row_tiles(factors.b.shape[1], factors.a.shape[2], _TILE)
