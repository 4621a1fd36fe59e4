"""Train each LoRA as one more expert of a mixture, which one linear router of all weighs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from clora_cli.base.errors import MismatchError
from clora_cli.methods import Run
from clora_cli.methods._gates import Gated, drawn

__all__ = ["MoeLora"]

_ROUTER = "router"


@dataclass(frozen=True, kw_only=True)
class MoeLora(Gated):
    """Train each LoRA as one more expert of a mixture, which one linear router of all weighs.

    ``W x + sum_{i<=t} p_i delta_i x`` with ``p = softmax(R sqrt(d) q)``: q is the mean of the prompt's frozen token embeddings at
    norm 1, of d numbers, and R has a row for each expert. Every task adds an expert and a row and trains the whole of R on;
    earlier experts are frozen. Nothing holds the rows of earlier experts where they were, so that earlier inputs may drift to
    later ones: the plain mixture that gates with a constraint are compared with.

    References:
        The MoELoRA baseline of Du et al., MIGU, 2024, arXiv:2406.17245, table 2: "a vanilla MoE with LoRA number equals to the task
        number". It names Luo et al., MoELoRA, 2024, arXiv:2402.12851, whose experts are one training's, balanced and contrasted.
        Chen et al., CoIN, NeurIPS 2024, arXiv:2403.08350: a softmax over linear scores that mixes all experts, as two copies of its
        code have it.
        Differs: what the table's code freezes was not found; here an expert is trained in its own task alone.
        Differs: one choice an input for all layers. CoIN's code has a router in each layer that chooses token by token from the
        layer's input, and divides one LoRA's rank among experts that are trained on through all tasks.
    """

    needed: ClassVar[tuple[str, ...]] = (_ROUTER,)

    def gate(self, run: Run, queries: Tensor) -> Mapping[str, Tensor]:
        """Return the last router with one more row, a random one."""
        row = drawn(run, 1, queries.shape[1])
        return {_ROUTER: torch.cat([run.past[-1].state()[_ROUTER], row]) if run.past else row}

    def weigh(self, states: Sequence[Mapping[str, Tensor]], queries: Tensor) -> Tensor:
        """Return each input's weights, shape (input, adapter), which sum to 1.

        Raises:
            MismatchError: If experts that the router was trained with are not among the adapters.
        """
        router = states[-1][_ROUTER].to(queries)
        if len(router) != len(states):
            raise MismatchError(
                f"the last adapter's router chooses among {len(router)} experts, and {len(states)} are here; give all adapters that it "
                "was trained with, or pass another --combine",
                code="mixing-weights-missing",
            )
        return torch.softmax(queries.shape[1] ** 0.5 * queries @ router.mT, dim=1)
