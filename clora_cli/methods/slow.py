"""Keep a slow copy of the LoRA that follows every step by a fraction, and write that."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from clora_cli.base.intervals import check_option
from clora_cli.methods import Method, Run

__all__ = ["Slow"]


@dataclass(frozen=True, kw_only=True)
class Slow(Method):
    """Keep a slow copy of the LoRA that follows every step by a fraction, and write that.

    After step n, ``slow <- d slow + (1 - d) fast`` with ``d = min(decay, 1 - 1 / (n + 1))``, entry by entry of lora_A and lora_B; the
    fast LoRA is what is trained. Beside another method it does so with that one's LoRA: ``replay+slow``, ``inc-lora+slow``.

    Args:
        decay: The share of the slow copy that stays at each step, in [0, 1); 0 is the other method, or seq-lora.

    References:
        SuRe, 2025, arXiv:2511.22367, which has it beside replay of surprising rows; I-LoRA: Ren et al., Analyzing and
        Reducing Catastrophic Forgetting in Parameter Efficient Tuning, 2024, arXiv:2402.18865, whose code lets the decay grow
        over the first steps. Neither paper's equations were at hand.
        Differs: the next task goes on from the slow copy; in I-LoRA the fast one lives on.
        Differs: without I-LoRA's distance between both copies' hidden states of remembered rows.
        Differs: public code under PEFT 0.21 never moves the copy, as its names do not match; here it is written and tested.
    """

    past = "none"
    start = "previous"
    combine = "last"
    joins = True

    decay: float = 0.99

    def __post_init__(self) -> None:
        """Check the option."""
        check_option("slow", "decay", self.decay, "[0, 1)")

    def begin(self, run: Run) -> None:
        """Let the slow copy start where the fast one does; where a run is continued, its checkpoint has it."""
        for key, fast in _factors(run):
            run.kept.setdefault(key, fast.detach().clone())

    @torch.no_grad()
    def after_step(self, run: Run) -> None:
        """Let the slow copy follow."""
        for key, fast in _factors(run):
            run.kept[key] = torch.lerp(fast, run.kept[key].to(fast), min(self.decay, 1 - 1 / (run.step + 1)))

    @torch.no_grad()
    def finish(self, run: Run) -> Mapping[str, Tensor]:
        """Put the slow copy in the fast one's place."""
        for key, fast in _factors(run):
            fast.copy_(run.kept[key])
        return {}


def _factors(run: Run) -> Iterator[tuple[str, Tensor]]:
    """Yield the trained factors with the names of their slow copies."""
    for site, factor in run.trainable.items():
        yield f"slow_a/{site}", factor.a
        yield f"slow_b/{site}", factor.b
