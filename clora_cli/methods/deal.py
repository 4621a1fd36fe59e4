"""Train one LoRA on by scaling the coarse band of its lora_A, whose details and lora_B stay."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from clora_cli.base.intervals import check_option
from clora_cli.methods import Batch, Method, Run

__all__ = ["Deal"]

_BAND, _A, _B = "band", "before_a", "before_b"


@dataclass(frozen=True, kw_only=True)
class Deal(Method):
    """Train one LoRA on by scaling the coarse band of its lora_A, whose details and lora_B stay.

    Of the last task's ``A = D^-1(c, d)``, one level of the two-dimensional Haar transform D has a coarse band c of half its height and
    width. What is trained is theta of that shape, from 1: ``A_t = D^-1(theta * c, d)`` and ``B_t = B_{t-1}``. The loss has
    ``strength * ||theta||_norm``. The first task trains a LoRA as always. The result is a plain LoRA, and a task begins exactly
    where the last one ended.

    Args:
        strength: The weight of the term, at least 0.
        norm: Which norm of theta, at least 1; a high one bounds its largest entries alone.

    References:
        Han et al., Data Efficient Adaptation in Large Language Models via Continuous Low-Rank Fine-Tuning (DEAL), NeurIPS 2025,
        arXiv:2509.18942; transform, theta and the term's numbers are the published code's.
        Differs: without its network of two layers behind ``A x``, whose ReLU makes the result no LoRA, and whose start from ones gives
        the last task's function up.
        Differs: the paper derives a filter of singular values by a heat kernel; code and this have the Haar filter.
        Differs: a side of odd length is filled up with zeros, where the code takes even ones alone.
        Differs: the term is summed over sites.
    """

    past = "none"
    start = "previous"
    combine = "last"
    passes_on = True

    strength: float = 0.01
    norm: float = 10.0

    def __post_init__(self) -> None:
        """Check the options."""
        check_option("deal", "strength", self.strength, "[0, inf)")
        check_option("deal", "norm", self.norm, "[1, inf)")

    def begin(self, run: Run) -> None:
        """Make theta trainable; where a run is continued, its checkpoint has it and the factors before."""
        for site, factor in run.trainable.items() if run.past else ():
            run.kept.setdefault(f"{_A}/{site}", factor.a.detach().clone())
            run.kept.setdefault(f"{_B}/{site}", factor.b.detach().clone())
            run.parameter(f"{_BAND}/{site}", torch.ones_like(coarse(factor.a.detach())))

    def loss(self, run: Run, batch: Batch) -> Tensor | None:
        """Return the batch's share of the term."""
        if not run.own:
            return None
        norms = torch.stack([torch.linalg.vector_norm(theta, self.norm) for theta in run.own.values()])
        return self.strength * norms.sum() * (len(batch.answers) / batch.tokens)

    @torch.no_grad()
    def gradients(self, run: Run) -> None:
        """Hand lora_A's gradient on to theta, by the chain rule."""
        for site, factor in run.trainable.items() if run.own else ():
            theta, before = run.own[f"{_BAND}/{site}"], run.kept[f"{_A}/{site}"].to(factor.a)
            if factor.a.grad is not None:
                slope = coarse(before) * coarse(factor.a.grad)
                theta.grad = slope if theta.grad is None else theta.grad + slope
            factor.a.grad = factor.b.grad = None

    @torch.no_grad()
    def after_step(self, run: Run) -> None:
        """Set lora_A to what theta makes of it."""
        for site, factor in run.trainable.items() if run.own else ():
            before = run.kept[f"{_A}/{site}"].to(factor.a)
            change = (run.own[f"{_BAND}/{site}"] - 1) * coarse(before)
            factor.a.copy_(before + fine(change, before.shape))
            factor.b.copy_(run.kept[f"{_B}/{site}"])


def coarse(matrix: Tensor) -> Tensor:
    """Return the coarse band of a matrix: of each square of two by two entries half the sum."""
    rows, columns = matrix.shape
    filled = functional.pad(matrix, (0, columns % 2, 0, rows % 2))
    return filled[0::2, 0::2].add(filled[0::2, 1::2]).add(filled[1::2, 0::2]).add(filled[1::2, 1::2]) / 2


def fine(band: Tensor, shape: torch.Size) -> Tensor:
    """Return the matrix of a coarse band without details, of the given shape."""
    return band.repeat_interleave(2, dim=0).repeat_interleave(2, dim=1)[: shape[0], : shape[1]] / 2
