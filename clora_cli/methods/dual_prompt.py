"""Train a general soft prompt through all tasks and an expert one for each; an input gets the expert whose key is nearest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from clora_cli.base.intervals import check_option
from clora_cli.methods import Batch, Method, Planned, Run
from clora_cli.methods._gates import cosines, drawn
from clora_cli.methods._kept import check_kept

__all__ = ["DualPrompt"]


@dataclass(frozen=True, kw_only=True)
class DualPrompt(Method):
    """Train a general soft prompt through all tasks and an expert one for each; an input gets the expert whose key is nearest.

    The model reads ``[G; E_t; x]`` in training of task t. The loss has ``pull * mean(1 - cos(q, k_t))`` with the mean q of an input's
    token embeddings and the task's key k_t. At test an input gets the last G and the expert of ``argmax_i cos(q, k_i)``, without the
    task's identity.

    Args:
        general: Virtual tokens of G, at least 1.
        expert: Virtual tokens of each expert, at least 1.
        pull: The weight of the keys' term, at least 0.

    References:
        Wang et al., DualPrompt: Complementary Prompting for Rehearsal-free Continual Learning, ECCV 2022, arXiv:2204.04799; lengths,
        the keys' term, ``pull`` and the choice are those of its published code (google-research/l2p@dd8836e, ImageNet-R), and of a port
        by others (JH-LEE-KR/dualprompt-pytorch@7eb457d), in which each input chooses for itself, as here.
        Differs: both prompts stand before the input, as PEFT's folders have them; the paper puts G to the first two layers' attention
        and E to the next three's, as keys and values.
        Differs: q is of token embeddings, padding left out, where the paper takes a frozen encoder's class token; the choice is each
        input's own, where that code lets a batch vote.
        Differs: an expert starts from tokens drawn from the vocabulary, where that code starts it from the last one.
    """

    past = "none"
    start = "previous"
    combine = "learned"
    grows = True
    lr: ClassVar[float | None] = 0.03

    general: int = 5
    expert: int = 20
    pull: float = 1.0

    def __post_init__(self) -> None:
        """Check the options."""
        check_option("dual-prompt", "general", self.general, "[1, inf)")
        check_option("dual-prompt", "expert", self.expert, "[1, inf)")
        check_option("dual-prompt", "pull", self.pull, "[0, inf)")

    def virtual_tokens(self) -> int:
        """Return the tokens of G and one expert."""
        return self.general + self.expert

    def check(self, plan: Planned) -> None:
        """Check that all earlier adapters have prompts of these lengths, and keys.

        Raises:
            MismatchError: If one has not.
        """
        lacking = (
            f"has no prompts of {self.general} and {self.expert} tokens with a key; train the whole package with dual-prompt and the "
            "same options"
        )
        tokens = self.virtual_tokens()
        check_kept(plan.past, lambda member: "key" in member.state() and len(member.prompt()) == tokens, lacking)

    def begin(self, run: Run) -> None:
        """Go on with G, and draw an expert and its key."""
        start = run.drawn_tokens(self.virtual_tokens())
        before = run.past[-1].prompt() if run.past else start
        own = run.parameter(
            "prompts", torch.cat([before[: self.general].to(start), start[self.general :]]), lasts=False
        )
        run.parameter("key", drawn(run, start.shape[1]))
        first = len(before) if run.past else 0
        run.prompt(lambda: own, lambda rows: torch.arange(first, first + self.virtual_tokens())[None])

    def loss(self, run: Run, batch: Batch) -> Tensor:
        """Return the batch's part of the key's term of the step."""
        queries = run.embeddings()[batch.rows.cpu()].to(batch.logits.device)
        return self.pull * (1 - cosines([run.own], queries)).sum() / len(run.batches[run.step])

    def choose(self, states: Sequence[Mapping[str, Tensor]], lengths: Sequence[int], queries: Tensor) -> Tensor:
        """Return each input's virtual tokens, shape (input, token): the last G, and the expert of the nearest key."""
        expert = cosines(states, queries).argmax(dim=1, keepdim=True)
        starts = torch.tensor([0, *lengths[:-1]], device=queries.device).cumsum(0)
        own = starts[expert] + torch.arange(self.general, self.virtual_tokens(), device=queries.device)
        shared = starts[-1] + torch.arange(self.general, device=queries.device)
        return torch.cat([shared.expand(len(queries), -1), own], dim=1)
