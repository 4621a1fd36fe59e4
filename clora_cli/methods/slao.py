"""Train one LoRA on from an orthonormal start, and average its lora_B over the tasks ever more slowly."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from clora_cli.methods import Method, Run

__all__ = ["Slao"]

_TUNED, _TASKS = "tuned", "tasks"


@dataclass(frozen=True, kw_only=True)
class Slao(Method):
    """Train one LoRA on from an orthonormal start, and average its lora_B over the tasks ever more slowly.

    Task t starts from the last task's *tuned* factors: ``A = Q^T`` of ``A_{t-1}^T = Q R``, and ``B = B_{t-1}``. What is kept and
    evaluated is the *merged* LoRA: the tuned ``A_t`` with ``B <- B + (B_t - B) / sqrt(t)``. One LoRA's size at any number of
    tasks, no row of an earlier one.

    Args:
        beginning: ``paper`` as above, which is another function than the last tuned one; ``exact`` starts from ``B_{t-1} R^T``
            instead, which is the same function.

    References:
        SLAO, ICLR 2026, arXiv:2512.23017: its abstract, and a third party's code. The paper's own equations were not at hand.
        Differs: R's diagonal is made positive, so that every machine's decomposition gives the same start.
        Differs: ``1 / sqrt(t)`` is not bounded from below; the third party's code has at least 0.1.
        Differs: after an adapter of another method, that adapter counts as the first task's.
    """

    past = "none"
    start = "previous"
    combine = "last"

    beginning: Literal["paper", "exact"] = "paper"

    @torch.no_grad()
    def begin(self, run: Run) -> None:
        """Start from the last tuned factors; where a run is continued, its checkpoint has them."""
        if run.step or not run.past:
            return
        tuned = run.past[-1].state()
        for site, factor in run.trainable.items():
            a, b = (tuned.get(f"{_TUNED}_{side}/{site}", getattr(factor, side)).cpu() for side in ("a", "b"))
            a, r = orthonormal(a)
            factor.a.copy_(a)
            factor.b.copy_(b.double() @ r.mT if self.beginning == "exact" else b)

    @torch.no_grad()
    def finish(self, run: Run) -> Mapping[str, Tensor]:
        """Merge, and return the tuned factors and the number of tasks."""
        before = run.past[-1].factors() if run.past else {}
        count = int(run.past[-1].state().get(_TASKS, torch.tensor(1))) + 1 if run.past else 1
        kept = {_TASKS: torch.tensor(count)}
        for site, factor in run.trainable.items():
            kept |= {f"{_TUNED}_{side}/{site}": getattr(factor, side).detach().cpu().clone() for side in ("a", "b")}
            if site in before:
                factor.b.copy_(torch.lerp(before[site].b.to(factor.b), factor.b, 1 / math.sqrt(count)))
        return kept


def orthonormal(a: Tensor) -> tuple[Tensor, Tensor]:
    """Return ``Q^T`` and R of ``A^T = Q R`` with a positive diagonal of R, of shapes (rank, in) and (rank, rank), float64."""
    q, r = torch.linalg.qr(a.double().mT)
    signs = torch.where(r.diagonal() < 0, -1.0, 1.0).to(r)
    return (q * signs).mT, r * signs[:, None]
