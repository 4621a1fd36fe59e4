"""Train one soft prompt on through all tasks, which also learns to write their rows, and rehearse those of earlier tasks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from clora_cli.base.intervals import check_option
from clora_cli.data.tokens import IGNORED
from clora_cli.methods import Batch, Planned, Run
from clora_cli.methods._kept import check_kept
from clora_cli.methods._written_rows import WrittenRows

__all__ = ["Lfpt5"]


@dataclass(frozen=True, kw_only=True)
class Lfpt5(WrittenRows):
    """Train one soft prompt on through all tasks, which also learns to write their rows, and rehearse those of earlier tasks.

    ``L = L_QA + strength * L_LM + hold * L_KL``: the answer's tokens given the question; all tokens of ``[task] question answer``
    given ``[task]``; and the divergence ``KL(old || new)`` of the answers to made rows under the last task's prompt and
    under the new one, mean over a step's answer tokens. Before each new task the model writes ``share * rows`` rows in all, as many
    of every earlier task, as lamol does; they are trained on as if they were the new task's. No row of an earlier task is needed.

    Args:
        tokens: Virtual tokens of the prompt, at least 1.
        hold: The weight of the divergence, at least 0.
        share: Made rows of all earlier tasks together, as a share of the new task's, in [0, 1].
        strength: The weight of L_LM, at least 0.
        temperature: Of the rows that are written; 0 takes the likeliest tokens.
        top_k: Tokens are drawn from so many of the likeliest; 0 for all.

    References:
        Qin and Joty, LFPT5: A Unified Framework for Lifelong Few-shot Language Learning Based on Prompt Tuning of T5, ICLR 2022,
        arXiv:2110.07298. The three terms, strength and top_k are those of its published code
        (qcwthu/Lifelong-Fewshot-Language-Learning@cf7d17c); the paper's text was not at hand.
        Differs: the divergence is a mean over answer tokens; that code sums it over a batch's vocabulary and positions, so that its
        weight of 0.01 means something else for every batch. 0.1 is clora's choice.
        Differs: the old prompt stays as it was; that code's shares the new one's memory, and its divergence is 0.
        Differs: the first two terms are not multiplied by one minus the weight.
        Differs: the prompt stands before the input, and has 20 tokens by default; that code appends 300.
        Differs: rows are a share of the new task's, where that code keeps two of each class; no repetition penalty of 2.5.
    """

    name = "lfpt5"
    lr: ClassVar[float | None] = 0.3

    tokens: int = 20
    hold: float = 0.1
    top_k: int = 64

    def __post_init__(self) -> None:
        """Check the options."""
        super().__post_init__()
        check_option("lfpt5", "tokens", self.tokens, "[1, inf)")
        check_option("lfpt5", "hold", self.hold, "[0, inf)")

    def virtual_tokens(self) -> int:
        """Return the tokens of the prompt."""
        return self.tokens

    def check(self, plan: Planned) -> None:
        """Check that all earlier adapters learned to write rows, with a prompt of this length.

        Raises:
            MismatchError: If one did not.
        """
        super().check(plan)
        lacking = f"has no prompt of {self.tokens} tokens; train the whole package with lfpt5 and the same options"
        check_kept(plan.past, lambda member: len(member.prompt()) == self.tokens, lacking)

    def begin(self, run: Run) -> None:
        """Go on with the last prompt, or draw one."""
        start = run.past[-1].prompt() if run.past else run.drawn_tokens(self.tokens)
        own = run.parameter("prompt", start, lasts=False)
        first = self.tokens if run.past else 0
        run.prompt(lambda: own, lambda rows: torch.arange(first, first + self.tokens)[None])

    def loss(self, run: Run, batch: Batch) -> Tensor | None:
        """Return the weighted losses of whole rows, and of the distance from the last prompt's answers to made ones."""
        whole, held = super().loss(run, batch), self._held(run, batch)
        return held if whole is None else whole if held is None else whole + held

    def _held(self, run: Run, batch: Batch) -> Tensor | None:
        if not len(run.memory) or not self.hold:
            return None
        made = torch.tensor([row in run.memory for row in batch.rows.tolist()], device=batch.logits.device)
        counts = (batch.inputs["labels"] != IGNORED).sum(dim=1).to(made.device)
        return (
            self.hold
            * self.divergence(batch.logits, run.previous(batch))[made.repeat_interleave(counts)].sum()
            / batch.tokens
        )

    def divergence(self, new: Tensor, old: Tensor) -> Tensor:
        """Return KL(old || new) of logits of shape (token, vocabulary), token by token."""
        student, teacher = (functional.log_softmax(logits, dim=-1) for logits in (new, old))
        return functional.kl_div(student, teacher, reduction="none", log_target=True).sum(dim=1)
