"""Replay, and hold a fast LoRA's hidden states of remembered rows to those of a slow copy of it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from clora_cli.base import registry
from clora_cli.base.intervals import check_option
from clora_cli.methods import Batch, Memory, Run
from clora_cli.methods._slow_copy import SlowCopy

__all__ = ["ILora"]


@dataclass(frozen=True, kw_only=True)
class ILora(SlowCopy):
    """Replay, and hold a fast LoRA's hidden states of remembered rows to those of a slow copy of it.

    ``L = L_CE + strength * mean (h_fast - max(h_fast, h_slow))^2`` over entries of the last hidden states at a step's answer tokens,
    of which new rows' count as 0: what counts is where the slow copy's are larger. After step n, ``slow <- d slow + (1 - d) fast``
    with ``d = min(decay, 1 - 1 / (n + 1))``; the slow copy is what is written.

    Args:
        rows: Rows of each earlier task in the memory at most; 0 for all.
        pseudo: A file of ``clora synthesize``, whose rows take the place of the earlier tasks' own.
        decay: The share of the slow copy that stays at each step, in [0, 1).
        strength: The weight of the distance, at least 0.

    References:
        Ren et al., Analyzing and Reducing Catastrophic Forgetting in Parameter Efficient Tuning, 2024, arXiv:2402.18865. The target,
        the moving average and its 0.25, the strength of 1 are those of its published code (which47/LLMCL@a9dae12). The paper, as
        notes on it quote its equations, has the same average with a fixed share, the same sum of losses over new and remembered rows, and
        the slow copy's own states as the target: the larger of both is the code's. Other public code lets 0.999 stay.
        Differs: remembered rows are shuffled among the new ones and each counts as a new one; the code adds the mean losses of a batch
        of each.
        Differs: the distance counts as the answers' loss does, summed over remembered rows' answer tokens, over the number of all of a
        step's. That code's is a mean over remembered rows alone, beside half of each mean loss.
        Differs: the hidden states are those that the output layer reads at the answers' tokens, in two passes more over a batch's
        remembered rows; that code takes those of all layers at all tokens, padding among them.
        Differs: the slow copy is what is written, and the next task goes on from it; that code writes the fast one, and calls a function
        that it does not have to set the copy to it.
        Differs: public code under PEFT 0.21 never moves the copy, or takes the current batch for the memory.
    """

    rows: int = 50
    pseudo: str = registry.added("")
    decay: float = 0.25
    strength: float = 1.0

    def __post_init__(self) -> None:
        """Check the options."""
        check_option("i-lora", "decay", self.decay, "[0, 1)")
        for name in ("rows", "strength"):
            check_option("i-lora", name, getattr(self, name), "[0, inf)")

    def memory(self) -> Memory:
        """Return which rows are in the memory."""
        return Memory(rows=self.rows, file=self.pseudo)

    def loss(self, run: Run, batch: Batch) -> Tensor | None:
        """Return the weighted distance over a batch's remembered rows; None without a memory."""
        if not len(run.memory) or not self.strength:
            return None
        held = [row for row in batch.rows.tolist() if row in run.memory]
        # Processes that divide the model must make the same passes, whatever their rows are.
        rows = held or batch.rows[:1].tolist()
        distance = self.distance(run.states(rows), run.states(rows, self.copy(run)))
        return self.strength * bool(held) * distance / batch.tokens

    def distance(self, fast: Tensor, slow: Tensor) -> Tensor:
        """Return the squared distance of hidden states, shape (token, hidden), mean over entries, summed over tokens."""
        return (fast - torch.maximum(fast, slow).detach()).square().mean(dim=1).sum()
