"""Train one LoRA on through all tasks, and hold back what mattered to the earlier ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from clora_cli.base.intervals import check_option
from clora_cli.methods import Factors, Method, Penalty, Run

__all__ = ["Ewc"]

_KEPT = {"lora_A": "fisher_a", "lora_B": "fisher_b"}


@dataclass(frozen=True, kw_only=True)
class Ewc(Method):
    """Train one LoRA on through all tasks, and hold back what mattered to the earlier ones.

    ``L = strength / 2 * sum_i F_i (theta_i - theta*_i)^2`` over the entries of lora_A and lora_B, where theta* are the
    previous adapter's and ``F = decay * F_previous + F_task`` is kept with each adapter. F_task is the empirical Fisher
    information: the mean over rows of the squared gradient of ``log p(right answer | prompt)``, taken at the end of the
    task. Nothing happens at the first task.

    Args:
        strength: The weight of the term, at least 0. 100 suited clora-nano, on dev rows, best of 10, 30, 100, 400 and 10,000.
        decay: What is left of earlier tasks' F at each further one, in [0, 1]; 1 adds them up.
        rows: Training rows that F is estimated from at most, one backward pass each.

    References:
        Kirkpatrick et al., Overcoming Catastrophic Forgetting in Neural Networks, 2016, arXiv:1612.00796, eq. 3; one
        running F and one theta* as in online EWC: Schwarz et al., Progress & Compress, 2018, arXiv:1805.06370.
        Differs: the answers are the data's, not drawn from the model's own distribution, which a true Fisher takes.
        Differs: over LoRA's two factors, of which only the product acts, instead of all weights of the model, which `seq-ft+ewc` takes.
        Differs: the scale of F depends on model and answers, and no published strength carries over (TRACE,
        arXiv:2310.06762, has 400 over squared gradients of whole batches).
    """

    past = "none"
    start = "previous"
    combine = "last"
    recalls = ("lora_A", "lora_B", *_KEPT.values())
    keeps = tuple(_KEPT.values())

    strength: float = 100.0
    decay: float = 1.0
    rows: int = 200

    def __post_init__(self) -> None:
        """Check the options."""
        check_option("ewc", "strength", self.strength, "[0, inf)")
        check_option("ewc", "decay", self.decay, "[0, 1]")
        check_option("ewc", "rows", self.rows, "[1, inf)")

    def penalty(self, factors: Factors) -> Penalty | None:
        """Return the weighted distance from the previous adapter; None without one."""
        if not factors.recalled:
            return None
        old = {name: tensor.to(factors.a.dtype) for name, tensor in factors.recalled.items()}
        step_a, step_b = factors.a - old["lora_A"], factors.b - old["lora_B"]
        grad_a, grad_b = (self.strength * old[f"fisher_{s}"] * step for s, step in (("a", step_a), ("b", step_b)))
        return Penalty(((grad_a * step_a).sum() + (grad_b * step_b).sum()) / 2, grad_a, grad_b)

    def finish(self, run: Run) -> Mapping[str, Tensor]:
        """Return F of this task and of those before it."""
        before = run.past[-1].state() if run.past else {}
        kept = {}
        for side, fisher in run.fisher(self.rows).items():
            for site, own in fisher.items():
                key = f"{_KEPT[side]}/{site}"
                kept[key] = own + self.decay * before[key] if before else own
        return kept
