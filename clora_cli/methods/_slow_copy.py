"""What methods share that keep a slow copy of the LoRA, and write that."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from clora_cli.algebra.lora import Factor
from clora_cli.methods import Method, Run

__all__ = ["SlowCopy"]


@dataclass(frozen=True, kw_only=True)
class SlowCopy(Method):
    """Base of methods whose slow copy follows every step by a fraction.

    Attributes:
        decay: The share of the slow copy that stays at each step, once it is old enough, in [0, 1).
    """

    past = "none"
    start = "previous"
    combine = "last"
    replaces = True

    decay: float = 0.99

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

    def copy(self, run: Run) -> dict[str, Factor]:
        """Return the slow copy by site."""
        return {
            site: Factor(run.kept[f"slow_a/{site}"], run.kept[f"slow_b/{site}"], own.scaling)
            for site, own in run.trainable.items()
        }


def _factors(run: Run) -> Iterator[tuple[str, Tensor]]:
    """Yield the trained factors with the names of their slow copies."""
    for site, factor in run.trainable.items():
        yield f"slow_a/{site}", factor.a
        yield f"slow_b/{site}", factor.b
