"""Make the new LoRA's delta sparse, so that it collides with few parameters of other tasks."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from clora_cli.algebra.lora import row_tiles
from clora_cli.base.errors import OptionError
from clora_cli.base.intervals import check_option
from clora_cli.methods import Factors, Method, Penalty

__all__ = ["NLora"]

_TILE = 1 << 20  # entries of the product held at one time: 4 MB, which stays in a core's cache


@dataclass(frozen=True, kw_only=True)
class NLora(Method):
    """Make the new LoRA's delta sparse, so that it collides with few parameters of other tasks.

    ``L = strength * mean_sites ||delta||_1 / sqrt(out * in)`` with ``delta = scaling * B A`` (eq. 3). By eq. 9 and 16 the
    normalised norm is GSR(delta) * ||delta||_F: it grows with an adapter's size, not with the layer's, and the mean does
    not grow with their number, so one strength serves models of every width and depth.

    Args:
        strength: The weight of the normalised term, at least 0; 0.4 where neither strength is given.
        raw_strength: The weight of the plain sum ``sum_sites ||delta||_1`` instead (the paper's lambda as printed).
        target: ``ba`` penalises the delta, as in the paper; ``ab`` the r x r product ``A B`` that the published code
            penalises, which needs square layers, no scaling, and takes ``raw_strength`` (0.4 there). For the ablation of
            figure 6, ``a``, ``b`` or ``a+b`` penalise the factors themselves: ``||A||_1``, ``||B||_1`` or their sum in the place of
            the delta's norm, each over the root of its own number of entries.

    References:
        Yang et al., Is Parameter Collision Hindering Continual Learning in LLMs?, 2024, arXiv:2410.10179, eq. 3-4.
        Differs: the strength is normalised; published strengths belong to ``target=ab`` and are thousands of times too
        strong for the plain sum over a delta.
        Differs: the gradient is the closed form ``S A^T``, ``B^T S`` with ``S = sign(B A)``, in tiles of rows.
        Differs: dropout as in inc-lora.
    """

    strength: float | None = None
    raw_strength: float | None = None
    target: Literal["ba", "ab", "a", "b", "a+b"] = "ba"

    def __post_init__(self) -> None:
        """Check the options and fill in the default strength."""
        if self.strength is not None and self.raw_strength is not None:
            raise OptionError(
                "options strength and raw_strength of n-lora exclude each other", code="options-exclude-each-other"
            )
        if self.target == "ab" and self.strength is not None:
            raise OptionError(
                "option target=ab of n-lora takes raw_strength, as the published code does, not strength",
                code="options-exclude-each-other",
            )
        for name in ("strength", "raw_strength"):
            check_option("n-lora", name, getattr(self, name), "[0, inf)")
        if self.strength is None and self.raw_strength is None:
            default = "raw_strength" if self.target == "ab" else "strength"
            object.__setattr__(self, default, 0.4)

    def penalty(self, factors: Factors) -> Penalty | None:
        """Return the L1 norm of the new delta, of the published code's product, or of factors."""
        a, b = factors.a, factors.b
        if self.target not in {"ba", "ab"}:
            return self._of_factors(factors)
        if self.target == "ab":
            if a.shape[2] != b.shape[1]:
                raise OptionError(
                    f"option target=ab of n-lora needs square layers; one here is {b.shape[1]} x {a.shape[2]}",
                    code="layer-not-square",
                )
            grad_b, grad_a = _l1_gradients(a, b)  # ||A B||_1: the left factor is A
            weight = float(self.raw_strength or 0)
        else:
            grad_a, grad_b = _l1_gradients(b, a)
            size = 1.0 if self.strength is None else math.sqrt(b.shape[1] * a.shape[2]) * factors.total_sites
            weight = (self.strength or self.raw_strength or 0.0) * factors.scaling / size
        # d||B A||_1 is homogeneous of degree one in B, so its value is <B, dB>: no second pass over the product.
        return Penalty(weight * (b * grad_b).sum(), grad_a=weight * grad_a, grad_b=weight * grad_b)

    def _of_factors(self, factors: Factors) -> Penalty:
        value, grads = factors.a.new_zeros(()), {}
        for side in self.target.split("+"):
            own = getattr(factors, side)
            size = 1.0 if self.strength is None else math.sqrt(own[0].numel()) * factors.total_sites
            weight = (self.strength or self.raw_strength or 0.0) / size
            value, grads[f"grad_{side}"] = value + weight * own.abs().sum(), weight * own.sign()
        return Penalty(value, **grads)


def _l1_gradients(left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """Differentiate ``||left @ right||_1`` for stacks of products, in tiles of rows.

    Args:
        left: Shape (site, rows, inner).
        right: Shape (site, inner, columns).

    Returns:
        The gradients with respect to ``right`` and to ``left``.
    """
    grad_left, grad_right = torch.empty_like(left), torch.zeros_like(right)
    for site in range(left.shape[0]):
        for rows in row_tiles(left.shape[1], right.shape[2], _TILE):
            tile = left[site, rows]
            sign = (tile @ right[site]).sign_()
            torch.mm(sign, right[site].mT, out=grad_left[site, rows])
            grad_right[site].addmm_(tile.mT, sign)
    return grad_right, grad_left
