"""Train each LoRA within a mixture of all, weighed by an input's cosine with a key that each learns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from clora_cli.base.intervals import check_option
from clora_cli.methods import Batch, Run
from clora_cli.methods._gates import Gated, cosines

__all__ = ["Mocl"]


@dataclass(frozen=True, kw_only=True)
class Mocl(Gated):
    """Train each LoRA within a mixture of all, weighed by an input's cosine with a key that each learns.

    ``W x + sum_{i<=t} w_i delta_i x`` with ``w_i = cos(q, k_i)``; earlier LoRAs and keys are frozen. The loss has
    ``matching * mean(1 - cos(q, k_t))`` over the task's rows. At test all adapters are weighed, without the task's identity.

    Args:
        weights: ``cosine`` as above, whose sum grows with the number of tasks, or ``softmax`` of the cosines times ``scale``.
        scale: Of the softmax, above 0.
        matching: The weight of the matching loss, at least 0.

    References:
        Wang et al., Rehearsal-Free Modular and Compositional Continual Learning for Language Models (MoCL), NAACL 2024,
        arXiv:2404.00790; both kinds of weights, the scale and the coefficient of 1 are those of its published code.
        Differs: q is the mean of the prompt's frozen token embeddings, where MoCL takes a frozen encoder's mean representation.
        Differs: the LoRAs' deltas are weighed; MoCL composes modules' parameters, which for a LoRA's two factors is no mixture.
        Differs: no weight is negative: one below 0 counts as 0.
    """

    weights: Literal["cosine", "softmax"] = "cosine"
    scale: float = 8.0
    matching: float = 1.0

    def __post_init__(self) -> None:
        """Check the options."""
        check_option("mocl", "scale", self.scale, "(0, inf)")
        check_option("mocl", "matching", self.matching, "[0, inf)")

    def weigh(self, states: Sequence[Mapping[str, Tensor]], queries: Tensor) -> Tensor:
        """Return each input's weights, shape (input, adapter)."""
        found = cosines(states, queries)
        return torch.softmax(self.scale * found, dim=1) if self.weights == "softmax" else found.clamp(min=0)

    def loss(self, run: Run, batch: Batch) -> Tensor:
        """Return the batch's part of the matching loss of the step."""
        queries = run.embeddings()[batch.rows.cpu()].to(batch.logits.device)
        return self.matching * (1 - cosines([run.own], queries)).sum() / len(run.batches[run.step])
