"""Train each LoRA within a mixture of all, weighed by attention between inputs and a key that each learns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from clora_cli.base import registry
from clora_cli.base.intervals import check_option
from clora_cli.methods import Batch, Memory, Planned, Run
from clora_cli.methods._gates import Gated, drawn
from clora_cli.methods._kept import check_kept

__all__ = ["Sapt"]

_ATTENTION = "attention"
_KEYS, _REMEMBERED = "keys", "remembered"


@dataclass(frozen=True, kw_only=True)
class Sapt(Gated):
    """Train each LoRA within a mixture of all, weighed by attention between inputs and a key that each learns.

    ``W x + sum_{i<=t} w_i delta_i x`` with ``w = softmax_i(<f(q), k_i> / sqrt(d))`` and
    ``f(q) = LN(up SiLU(down LN(q)))``, one weight an input for all layers. Earlier LoRAs and keys are frozen; f is trained on
    through all tasks. At test all adapters are weighed by the last f, without the task's identity.

    With a memory, ``strength * sum_{i<t} KL(a_i || w)`` keeps earlier tasks' inputs where they were: w of task i's remembered rows, mean
    over them, and ``a_i`` the mean weights of its inputs when it was learned, 0 for later adapters.

    Args:
        width: Outputs of ``down``, at least 1.
        rows: Rows of each earlier task in the memory at most; 0 without ``pseudo`` is without a memory.
        pseudo: A file of ``clora synthesize`` whose rows are the memory instead; ``rows`` 0 takes all of them.
        strength: The weight of the term, at least 0.

    References:
        Zhao et al., SAPT: A Shared Attention Framework for Parameter-Efficient Continual Learning of Large Language Models,
        ACL 2024, arXiv:2401.08295; width 100 and strength 0.1 are the published code's (0.5 and more on other benchmarks).
        Differs: without a memory by default. f and the new key then move freely, so that earlier inputs may drift to later
        adapters: the papers' column without data of earlier tasks. Their column with it is ``rows``, or ``pseudo``, whose rows are
        those of ``clora synthesize``; the published code reads files of rows that another project generated.
        Differs: ``a_i`` is measured on the training rows; the published code measures it on those that it is scored on.
        Differs: q is the mean of the prompt's token embeddings at norm 1, padding left out; the published code takes the maximum over
        the sequence, padding included, so that an input's choice depends on the batch.
        Differs: where the layer norms stand was not checked against the paper; they have no parameters here.
    """

    width: int = 100
    rows: int = registry.added(0)
    pseudo: str = registry.added("")
    strength: float = registry.added(0.1)
    needed: ClassVar[tuple[str, ...]] = ("key", "down", "up")

    def __post_init__(self) -> None:
        """Check the options."""
        check_option("sapt", "width", self.width, "[1, inf)")
        for name in ("rows", "strength"):
            check_option("sapt", name, getattr(self, name), "[0, inf)")

    def memory(self) -> Memory | None:
        """Return which rows hold the attention, if any: they are not trained on."""
        return Memory(rows=self.rows, mixed=False, file=self.pseudo) if self.rows or self.pseudo else None

    def check(self, plan: Planned) -> None:
        """Check that all earlier adapters learned a gate of the same kind, and keep its weights where a memory holds them.

        Raises:
            MismatchError: If one does not.
        """
        super().check(plan)
        self.check_width(plan, "down", self.width)
        if self.memory():
            lacking = f"keeps no '{_ATTENTION}', which a memory holds; train the whole package with rows or pseudo"
            check_kept(plan.past, lambda member: _ATTENTION in member.state(), lacking)

    def begin(self, run: Run) -> None:
        """Make the gate trainable; look at the memory's rows, and at how earlier adapters weighed their own."""
        super().begin(run)
        if not (self.memory() and run.memory):  # of another method of the run, its rows hold nothing
            return
        states = [adapter.state() for adapter in run.past]
        run.kept[_REMEMBERED] = run.embedded(run.memory)
        run.kept[_KEYS] = torch.stack([state["key"] for state in states])
        run.kept[_ATTENTION] = torch.stack(
            [functional.pad(state[_ATTENTION], (0, len(states) + 1 - len(state[_ATTENTION]))) for state in states]
        )

    def loss(self, run: Run, batch: Batch) -> Tensor | None:
        """Return how far remembered rows' weights are from what they were; None without a memory."""
        if _ATTENTION not in run.kept:
            return None
        keys, queries = (run.kept[name].to(batch.logits.device) for name in (_KEYS, _REMEMBERED))
        earlier: list[Mapping[str, Tensor]] = [{"key": key} for key in keys]
        weights = self.weigh([*earlier, run.own], queries)
        tasks = [run.texts[row].task for row in run.memory]
        terms = [
            self.divergence(weights[torch.tensor([task == adapter.task for task in tasks])], before)
            for adapter, before in zip(run.past, run.kept[_ATTENTION], strict=True)
            if adapter.task in tasks
        ]
        return self.strength * torch.stack(terms).sum() * len(batch.answers) / batch.tokens if terms else None

    def divergence(self, weights: Tensor, before: Tensor) -> Tensor:
        """Return KL(before || weights), mean over rows.

        Args:
            weights: Of remembered rows of one task, shape (row, adapter).
            before: The mean weights when it was learned, shape (adapter,), 0 for adapters that came later.
        """
        logs = weights.clamp_min(torch.finfo(weights.dtype).tiny).log()
        return functional.kl_div(logs, before.to(weights).expand_as(weights), reduction="batchmean")

    def finish(self, run: Run) -> Mapping[str, Tensor]:
        """Return the mean weights of the task's inputs, for later tasks' memories."""
        if self.memory() is None:
            return {}
        queries = run.embeddings()
        states: list[Mapping[str, Tensor]] = [*(adapter.state() for adapter in run.past), run.own]
        return {_ATTENTION: self.weigh(states, queries.to(run.own["key"].device)).mean(dim=0).cpu()}

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
