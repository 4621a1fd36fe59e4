"""Train one LoRA on through all tasks, no step against the gradient of any earlier task's remembered rows."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from clora_cli.base.intervals import check_option
from clora_cli.methods import Run
from clora_cli.methods._remembered import Remembered

__all__ = ["Gem"]

_SWEEPS = 10_000


@dataclass(frozen=True, kw_only=True)
class Gem(Remembered):
    """Train one LoRA on through all tasks, no step against the gradient of any earlier task's remembered rows.

    ``g' = g + G^T v`` is the nearest step to g with ``<g', m_k> >= 0`` for the gradient m_k of every earlier task's memory,
    the rows of G (eq. 8-11): v minimises ``v^T G G^T v / 2 + (G g)^T v`` over ``v >= margin``. A step that is against none stays
    as it is. Remembered rows are not trained on. Beside another method it filters that one's gradients: ``inc-lora+gem``.

    Args:
        rows: Rows of each earlier task in the memory at most; 0 for all.
        sample: Remembered rows of each task that m_k is taken of in each step, one forward and backward pass each; 0 for all.
        pseudo: A file of ``clora synthesize``, whose rows take the place of the earlier tasks' own.
        margin: The least v (the paper's gamma), at least 0: how far a step that is changed is turned towards every task.

    References:
        Lopez-Paz and Ranzato, Gradient Episodic Memory for Continual Learning, 2017, arXiv:1706.08840, eq. 8-11; a margin
        of 0.5 is the published code's.
        Differs: over the LoRA's entries instead of all weights of the model.
        Differs: the dual is solved by coordinate descent without the code's ridge of 1e-3, so that the constraints hold, also
        where g points straight against a memory: public code for language models adds a penalty instead, which leaves a conflict.
        Differs: the step is projected with the penalties of the method that it joins, before clipping and before the optimizer, whose
        momentum may still point elsewhere.
    """

    margin: float = 0.5

    def __post_init__(self) -> None:
        """Check the options."""
        for name in ("rows", "sample", "margin"):
            check_option("gem", name, getattr(self, name), "[0, inf)")

    def gradients(self, run: Run) -> None:
        """Turn the step so far that it is against no memory."""
        slopes = [run.slopes(self.drawn(run, rows)) for rows in run.memories]
        if not slopes:
            return
        grads = [own.grad for own, _ in slopes[0] if own.grad is not None]
        memories = [[slope for own, slope in found if own.grad is not None] for found in slopes]
        gram = torch.tensor([[_product(one, other) for other in memories] for one in memories], dtype=torch.float64)
        along = torch.tensor([_product(one, grads) for one in memories], dtype=torch.float64)
        if float(along.min()) >= 0:
            return
        for weight, memory in zip(dual(gram, along, self.margin).tolist(), memories, strict=True):
            for grad, slope in zip(grads, memory, strict=True):
                grad.add_(slope, alpha=weight)


def dual(gram: Tensor, along: Tensor, margin: float) -> Tensor:
    """Minimise ``v^T gram v / 2 + along^T v`` over ``v >= margin``, by coordinate descent.

    Args:
        gram: Products of the memories' gradients, shape (task, task), float64.
        along: Their products with the step, shape (task,).
        margin: The least v.

    Returns:
        v, shape (task,).
    """
    found = torch.full_like(along, margin)
    sizes = gram.diagonal()
    for _ in range(_SWEEPS):
        before = found.clone()
        for place in range(len(found)):
            if sizes[place] > 0:
                step = (gram[place] @ found + along[place]) / sizes[place]
                found[place] = max(margin, float(found[place] - step))
        if float((found - before).abs().max()) <= 1e-12 * float(found.abs().max()):
            break
    return found


def _product(one: list[Tensor], other: list[Tensor]) -> float:
    return sum(float((left * right).sum()) for left, right in zip(one, other, strict=True))
