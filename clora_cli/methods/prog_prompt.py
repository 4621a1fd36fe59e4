"""Train a soft prompt for each task and put all earlier ones, frozen, between it and the input."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from clora_cli.base.intervals import check_option
from clora_cli.methods import Method, Run
from clora_cli.methods._gates import drawn

__all__ = ["ProgPrompt"]


@dataclass(frozen=True, kw_only=True)
class ProgPrompt(Method):
    """Train a soft prompt for each task and put all earlier ones, frozen, between it and the input.

    The model reads ``[P_t; P_{t-1}; ...; P_1; x]``; its weights and ``P_1 ... P_{t-1}`` stay as they are. In training
    ``P_t = E + up relu(down E)``, of which the adapter keeps the result. Needs the task's identity at test: a task's inputs get its
    prompt and those before it, so that its answers never change again.

    Args:
        tokens: Virtual tokens of a task, at least 1.
        width: Outputs of ``down``, at least 0; 0 trains P_t itself.

    References:
        Razdaibiedina et al., Progressive Prompts: Continual Learning for Language Models, ICLR 2023, arXiv:2301.12314; ten tokens, a
        width of 800 and a learning rate of 0.3 for T5.
        Differs: ``up`` starts at zero and neither map has a bias, so that training starts at E, the vectors of tokens drawn from the
        vocabulary.
        Differs: prompts take none of an input's ``--max-length`` tokens; the published code cuts prompts and text together, and later
        tasks lose the end of their texts.
    """

    past = "sum"
    combine = "progressive"
    grows = True
    lr: ClassVar[float | None] = 0.3

    tokens: int = 10
    width: int = 800

    def __post_init__(self) -> None:
        """Check the options."""
        check_option("prog-prompt", "tokens", self.tokens, "[1, inf)")
        check_option("prog-prompt", "width", self.width, "[0, inf)")

    def virtual_tokens(self) -> int:
        """Return the tokens of one task's prompt."""
        return self.tokens

    def begin(self, run: Run) -> None:
        """Make the prompt trainable, through the maps or by itself."""
        start = run.drawn_tokens(self.tokens)
        own = run.parameter("prompt", start, lasts=False)
        if not self.width:
            run.prompt(lambda: own)
            return
        down = run.parameter("down", drawn(run, self.width, start.shape[1]), lasts=False)
        up = run.parameter("up", torch.zeros(start.shape[1], self.width), lasts=False)
        run.prompt(lambda: residual(own, down, up))


def residual(start: Tensor, down: Tensor, up: Tensor) -> Tensor:
    """Return ``E + up relu(down E)`` for each row of E, shape (token, hidden)."""
    return start + functional.relu(start @ down.mT) @ up.mT
