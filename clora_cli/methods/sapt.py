"""Train each LoRA within a mixture of all, weighed by attention between inputs and a key that each learns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from clora_cli.base.intervals import check_option
from clora_cli.methods import Run
from clora_cli.methods._gates import Gated, drawn

__all__ = ["Sapt"]


@dataclass(frozen=True, kw_only=True)
class Sapt(Gated):
    """Train each LoRA within a mixture of all, weighed by attention between inputs and a key that each learns.

    ``W x + sum_{i<=t} w_i delta_i x`` with ``w = softmax_i(<f(q), k_i> / sqrt(d))`` and
    ``f(q) = LN(up SiLU(down LN(q)))``, one weight an input for all layers. Earlier LoRAs and keys are frozen; f is trained on
    through all tasks. At test all adapters are weighed by the last f, without the task's identity.

    Args:
        width: Outputs of ``down``, at least 1.

    References:
        Zhao et al., SAPT: A Shared Attention Framework for Parameter-Efficient Continual Learning of Large Language Models,
        ACL 2024, arXiv:2401.08295; width 100 is the published code's.
        Differs: without its replay of generated rows, which keeps earlier inputs' attention where it was. f and the new key move
        freely, so that earlier inputs may drift to later adapters: the papers' column without data of earlier tasks.
        Differs: q is the mean of the prompt's token embeddings at norm 1, padding left out; the published code takes the maximum over
        the sequence, padding included, so that an input's choice depends on the batch.
        Differs: where the layer norms stand was not checked against the paper; they have no parameters here.
    """

    width: int = 100
    needed: ClassVar[tuple[str, ...]] = ("key", "down", "up")

    def __post_init__(self) -> None:
        """Check the option."""
        check_option("sapt", "width", self.width, "[1, inf)")

    def gate(self, run: Run, queries: Tensor) -> Mapping[str, Tensor]:
        """Return a random key, and f as the last adapter has it."""
        size, last = queries.shape[1], run.past[-1].state() if run.past else {}
        start = {"down": drawn(run, self.width, size), "up": drawn(run, size, self.width)}
        key = drawn(run, size) * size**0.5  # of variance 1, as f(q) has it
        return {name: last[name] if last else own for name, own in start.items()} | {"key": key}

    def weigh(self, states: Sequence[Mapping[str, Tensor]], queries: Tensor) -> Tensor:
        """Return each input's weights, shape (input, adapter), which sum to 1."""
        size = queries.shape[1:]
        down, up = (states[-1][name].to(queries) for name in ("down", "up"))
        mapped = functional.layer_norm(queries, size) @ down.mT
        mapped = functional.layer_norm(functional.silu(mapped) @ up.mT, size)
        keys = torch.stack([state["key"].to(queries) for state in states])
        return torch.softmax(mapped @ keys.mT / size[0] ** 0.5, dim=1)
