"""Let each LoRA's delta be sparse: entries below a threshold, which is learned, count as 0."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from clora_cli.algebra.lora import Factor
from clora_cli.base.errors import OptionError
from clora_cli.base.intervals import check_option
from clora_cli.methods import Batch, Method, Run

__all__ = ["JumpLora"]

_DOWN, _UP, _THRESHOLD, _BEFORE = "down", "up", "threshold", "before"


@dataclass(frozen=True, kw_only=True)
class JumpLora(Method):
    """Let each LoRA's delta be sparse: entries below a threshold, which is learned, count as 0.

    ``delta = s ((1 - c) w + c f(w))`` with ``w = B A`` and ``f(w) = w [|w| > tau]``. The share c grows from 0 to 1 in the middle of the
    training, so that it ends with f alone. tau starts where f leaves as many entries of all layers together as A and B have, and is
    learned by the slope of f in a window around it: ``df/dtau = -(tau / bandwidth) sign(w)`` where ``||w| - tau| < bandwidth / 2``. The
    result is a matrix of full rank, most of whose entries are 0; it is added to the sum of earlier ones, alone or beside what other
    methods add: ``ella+jump-lora``.

    Args:
        rank: Of B and A, at least 1.
        alpha: ``s = alpha / rank``, above 0.
        bandwidth: Width of the window, above 0.
        begin_at: The share of the steps after which c grows, in [0, 1).
        end_at: The share of the steps after which c is 1, above ``begin_at`` and at most 1.

    References:
        JumpLoRA: Sparse Adapters for Continual Learning in Large Language Models, 2026, arXiv:2604.16171, by its published code
        (alexandra-dragomir/JumpLoRA@f05079a), of which all defaults are; the paper itself was not at hand.
        Differs: one threshold for all layers, that code's default; it has one for each block too.
        Differs: the threshold's slope is a sum over entries, as that of any parameter; the code has the mean of each layer's.
        Differs: no dropout within the LoRA, and no bias, which the code has and never uses.
        Differs: each layer's delta is held as a whole matrix in training, as what f leaves has no low rank. It counts among what is
        trained beside B, A and tau, and the folder is a LoRA of full rank, which PEFT loads.
    """

    past = "sum"
    joins = True
    full_rank = True
    factored = True
    passes_on = True

    rank: int = 8
    alpha: float = 32.0
    bandwidth: float = 0.001
    begin_at: float = 0.2
    end_at: float = 0.8
    first_threshold: ClassVar[float] = math.exp(-4.7)  # until it is set from the entries; nothing depends on it before

    def __post_init__(self) -> None:
        """Check the options."""
        check_option("jump-lora", "rank", self.rank, "[1, inf)")
        for name in ("alpha", "bandwidth"):
            check_option("jump-lora", name, getattr(self, name), "(0, inf)")
        check_option("jump-lora", "begin_at", self.begin_at, "[0, 1)")
        check_option("jump-lora", "end_at", self.end_at, "(0, 1]")
        if self.begin_at >= self.end_at:
            raise OptionError(
                f"option begin_at={self.begin_at:g} of jump-lora is not below end_at={self.end_at:g}",
                code="option-out-of-range",
            )

    def begin(self, run: Run) -> None:
        """Make A, B and tau trainable; where a run is continued, its checkpoint has them."""
        generator = torch.Generator().manual_seed(run.seed % (1 << 62))
        for site, factor in run.trainable.items():
            whole = _whole(factor)
            fixed = factor.a if whole is factor.b else factor.b
            if not torch.equal(fixed, torch.eye(len(fixed)).to(fixed)):
                raise OptionError(
                    "jump-lora makes both factors itself, and another method of this run has set them; leave one out",
                    code="methods-disagree",
                )
            if whole.any() and not run.step:
                run.kept[f"{_BEFORE}/{site}"] = whole.detach().clone()
            out, columns = whole.shape
            start = torch.empty(self.rank, columns).uniform_(-(columns**-0.5), columns**-0.5, generator=generator)
            run.parameter(f"{_DOWN}/{site}", start, lasts=False)
            run.parameter(f"{_UP}/{site}", torch.zeros(out, self.rank), lasts=False)
        run.parameter(_THRESHOLD, torch.tensor(math.log(self.first_threshold)))

    def loss(self, run: Run, batch: Batch) -> Tensor:
        """Return 0, as a function of A, B and tau: a backward pass that several processes share is to reach them."""
        return torch.stack([parameter.sum() for parameter in run.own.values()]).sum() * 0

    @torch.no_grad()
    def gradients(self, run: Run) -> None:
        """Hand the delta's gradient on to B, A and tau, by the chain rule."""
        share, tau = self.share(run.step, run.steps), float(run.own[_THRESHOLD].exp())
        for site, factor in run.trainable.items():
            whole, up, down = _whole(factor), run.own[f"{_UP}/{site}"], run.own[f"{_DOWN}/{site}"]
            if whole.grad is None:
                continue
            product, slope = up @ down, self.alpha / self.rank * whole.grad
            window = ((product.abs() - tau).abs() < self.bandwidth / 2) * product.sign()
            _add(run.own[_THRESHOLD], -share * tau**2 / self.bandwidth * (window * slope).sum())
            slope = slope * (1 - share + share * (product.abs() > tau))
            _add(up, slope @ down.mT)
            _add(down, up.mT @ slope)
            whole.grad = None

    @torch.no_grad()
    def after_step(self, run: Run) -> None:
        """Set each delta to what its factors make of it, and tau when its time has come."""
        products = {site: run.own[f"{_UP}/{site}"] @ run.own[f"{_DOWN}/{site}"] for site in run.trainable}
        if run.step == max(1, math.ceil(self.begin_at * run.steps)):
            left = self.rank * sum(sum(product.shape) for product in products.values())
            run.own[_THRESHOLD].copy_(threshold(products, left).log())
        share, tau = self.share(run.step, run.steps), run.own[_THRESHOLD].exp()
        for site, product in products.items():
            sparse = product * (1 - share + share * (product.abs() > tau))
            before = run.kept.get(f"{_BEFORE}/{site}")
            _whole(run.trainable[site]).copy_(
                self.alpha / self.rank * sparse + (0 if before is None else before.to(sparse))
            )
        if run.step == run.steps:
            left = sum(int((product.abs() > tau).sum()) for product in products.values())
            run.report["jump_lora"] = {"entries_left": left / sum(product.numel() for product in products.values())}

    def share(self, step: int, steps: int) -> float:
        """Return c after so many of a run's steps, in [0, 1]."""
        return min(1.0, max(0.0, (step / steps - self.begin_at) / (self.end_at - self.begin_at)))


def threshold(products: Mapping[str, Tensor], left: int) -> Tensor:
    """Return the largest magnitude that leaves so many larger entries of all matrices together; a tiny one where there are no more."""
    magnitudes = torch.cat([product.abs().flatten() for product in products.values()])
    smaller = len(magnitudes) - left
    tiny = torch.finfo(magnitudes.dtype).tiny
    return magnitudes.kthvalue(smaller).values.clamp(min=tiny) if smaller > 0 else magnitudes.new_tensor(tiny)


def _whole(factor: Factor) -> Tensor:
    """Return the factor that is the delta, the other being the identity."""
    return factor.b if factor.b.requires_grad else factor.a


def _add(parameter: Tensor, slope: Tensor) -> None:
    parameter.grad = slope.clone() if parameter.grad is None else parameter.grad + slope
