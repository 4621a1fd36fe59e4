"""Train one LoRA on through all tasks, and stay near the previous model's answers to the new rows."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional

from clora_cli.base.intervals import check_option
from clora_cli.methods import Batch, Method, Run

__all__ = ["Lwf"]


@dataclass(frozen=True, kw_only=True)
class Lwf(Method):
    """Train one LoRA on through all tasks, and stay near the previous model's answers to the new rows.

    ``L = strength * T^2 * mean over answer tokens of KL(softmax(old / T) || softmax(new / T))`` with the logits of the base
    model under the previous adapter (old) and under the new one, both given the right answer's tokens so far. No row of an
    earlier task is needed; one more forward pass is. Nothing happens at the first task.

    Args:
        strength: The weight of the term, at least 0.
        temperature: T, above 0; higher ones weigh the unlikely tokens more.

    References:
        Li and Hoiem, Learning without Forgetting, 2016, arXiv:1606.09282, eq. 2-4, which has T = 2 and a weight of 1.
        Differs: the whole vocabulary at the answer's positions stands for the old tasks' outputs, as a language model has
        no heads. T^2 keeps the term's gradients at the size of the task's: Hinton et al., arXiv:1503.02531.
        Differs: TRACE's code (arXiv:2310.06762) has the divergence the other way round and keeps all logits of a task in memory.
    """

    past = "none"
    start = "previous"
    combine = "last"
    takes_classes = False

    strength: float = 1.0
    temperature: float = 2.0

    def __post_init__(self) -> None:
        """Check the options."""
        check_option("lwf", "strength", self.strength, "[0, inf)")
        check_option("lwf", "temperature", self.temperature, "(0, inf)")

    def loss(self, run: Run, batch: Batch) -> Tensor | None:
        """Return the weighted divergence of the new answers from the old ones; None at the first task."""
        return self.divergence(batch.logits, run.previous(batch)) / batch.tokens if run.past else None

    def divergence(self, new: Tensor, old: Tensor) -> Tensor:
        """Return the term, summed over tokens, of logits of shape (token, vocabulary)."""
        student, teacher = (functional.log_softmax(logits / self.temperature, dim=-1) for logits in (new, old))
        divergence = functional.kl_div(student, teacher, reduction="sum", log_target=True)
        return self.strength * self.temperature**2 * divergence
