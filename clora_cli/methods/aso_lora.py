"""Keep the new LoRA's input subspace orthogonal to those of earlier ones, the less the more knowledge they share."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from clora_cli.base import registry
from clora_cli.base.errors import MismatchError, OptionError
from clora_cli.base.intake import natural
from clora_cli.base.intervals import check_option
from clora_cli.methods import Factors, Method, Penalty, Run
from clora_cli.model.attribution import Answer, spearman
from clora_cli.model.features import layer_of

__all__ = ["AsoLora"]

_KEPT, _RELATIONS = "attribution", "relations"


@dataclass(frozen=True, kw_only=True)
class AsoLora(Method):
    """Keep the new LoRA's input subspace orthogonal to those of earlier ones, the less the more knowledge they share.

    ``L = strength * sum_sites sum_{i<t} ||psi_i A_i A_t^T||_F^2`` with ``psi_i = 1 - w_i`` (eq. 5-7), where ``w_i`` is
    Spearman's correlation of two attribution vectors: of the base model with adapter i alone, and with the new one alone
    (eq. 13). They hold, for every knowledge neuron n, ``n / m * sum_{k=1..m} dP(k/m n) / dn`` (eq. 11) with the
    probability P of the right answer; a knowledge neuron is an entry of the input of a block's down projection.

    Until w is first computed psi is 1: that is o-lora. The finished adapter keeps its own vector.

    Args:
        strength: The weight of the term (the paper's lambda), at least 0. It is tuned to one norm; 0.5 is o-lora's published value.
        norm: ``squared`` sums the squares of the weighted overlaps, as in eq. 7; ``absolute`` their absolute values, as
            in the code that lambda comes from.
        steps: Points of the integral (the paper's m), at least 1.
        layers: ``each`` scales the neurons of one layer after the other; ``together`` those of all layers at once, which
            is as many times cheaper as there are layers.
        rows: Training rows that attributions are averaged over; none for as many, from 1 to 32, as a tenth of the
            training's own cost allows. Where even one costs more, one is taken and a warning says how much it costs.
        warmup: The share of the run after which w is first computed, in [0, 1).
        refresh: How many times w is computed, spread evenly from then on, at least 1.
        vectors: ``current`` attributes every adapter on the new task's rows; ``stored`` takes the vectors that earlier
            adapters kept, each from its own task's rows, at no cost.
        negative: ``strengthen`` lets psi exceed 1 where w is negative; ``clamp`` keeps it in [0, 1].
        answer: P is the ``log-probability`` of the whole answer, or its ``probability``, whose slopes vanish for answers of
            tens of tokens.
        blocks: Numbers of the blocks, from 0, whose sites the sum is over, joined by commas; ``all`` of them by default.

    References:
        Wang et al., Soft Orthogonal Low-Rank Adaptation for Knowledge Sharing in Large Language Model Continual Learning
        (ASO-LoRA), ACL 2026, https://aclanthology.org/2026.acl-long.842/, eq. 4-13.
        Dai et al., Knowledge Neurons in Pretrained Transformers, 2021, arXiv:2104.08696: attribution by integrated gradients.
        Wang et al., Orthogonal Subspace Learning for Language Model Continual Learning, 2023, arXiv:2310.14152: the case psi = 1.
        Differs: eq. 9 prints the probability of an answer; its logarithm is the default, as answers have many tokens.
        Differs: eq. 7 adds the log-likelihood to the penalty; its negative is what is minimised.
        Differs: eq. 11 scales one neuron at a time; a whole layer is scaled at once, as is done for knowledge neurons.
        Differs: when w is computed and on how many rows is not published, nor is code. At the start the new adapter does nothing and
        its vector is the base model's, so there is a warm-up.
        Differs: lambda follows o-lora in the paper; its value was used there with ``norm=absolute``.
        Differs: an undefined correlation, of a constant vector, counts as w = 0.
        Differs: dropout as in inc-lora.
    """

    strength: float = 0.5
    norm: Literal["squared", "absolute"] = "squared"
    steps: int = 20
    layers: Literal["each", "together"] = "each"
    rows: int | None = None
    warmup: float = 0.1
    refresh: int = 1
    vectors: Literal["current", "stored"] = "current"
    negative: Literal["strengthen", "clamp"] = "strengthen"
    answer: Answer = "log-probability"
    blocks: str = registry.added("all")

    def __post_init__(self) -> None:
        """Check the options."""
        check_option("aso-lora", "strength", self.strength, "[0, inf)")
        check_option("aso-lora", "warmup", self.warmup, "[0, 1)")
        for name in ("steps", "rows", "refresh"):
            check_option("aso-lora", name, getattr(self, name), "[1, inf)")
        if self.blocks != "all" and any(natural(number) is None for number in self.blocks.split(",")):
            raise OptionError(
                f"option blocks={self.blocks} of aso-lora: give all, or blocks' numbers from 0, joined by commas",
                code="option-choice-unknown",
            )

    def begin(self, run: Run) -> None:
        """Check that the run adapts the blocks that were asked for."""
        there = {layer_of(site) for site in run.trainable}
        if missing := [number for number in self._numbers if number not in there]:
            raise OptionError(
                f"option blocks={self.blocks} of aso-lora: this run adapts nothing in block {missing[0]}",
                code="option-choice-unknown",
            )

    def penalty(self, factors: Factors) -> Penalty | None:
        """Return the weighted overlap of the new A with the past ones; None without a past."""
        if factors.past_a is None:
            return None
        past = factors.past_a.to(factors.a.dtype)
        psi = self._psi(factors) * self._acting(factors)
        overlap = psi * (past @ factors.a.mT)  # (site, past rank, rank)
        if self.norm == "squared":
            value, slope = overlap.square().sum(), 2 * psi * overlap
        else:
            value, slope = overlap.abs().sum(), psi * overlap.sign()
        return Penalty(self.strength * value, grad_a=self.strength * (slope.mT @ past))

    def gradients(self, run: Run) -> None:
        """Compute w of every earlier adapter when it is time: after the warm-up, and ``refresh - 1`` times more until the end."""
        if run.overlaps and self.due(run.step, run.steps):
            run.kept[_RELATIONS] = self.relate(run)
            run.log({f"relation/{run.name}/{task}": w for task, w in _by_task(run).items()})

    def finish(self, run: Run) -> Mapping[str, Tensor]:
        """Return the finished adapter's own attribution vector."""
        if _RELATIONS in run.kept:
            run.report["relations"] = {run.name: _by_task(run)}
        return {_KEPT: self._vector(run, None)}

    def relate(self, run: Run) -> Tensor:
        """Return w of every earlier adapter, shape (adapter,), in [-1, 1]."""
        new = self._vector(run, None)
        return torch.tensor([spearman(new, self._past_vector(run, number, new)) for number in range(len(run.past))])

    def due(self, step: int, steps: int) -> bool:
        """Tell whether w is computed at an optimizer step, from 0."""
        first = min(math.ceil(self.warmup * steps), steps - 1)
        return step in {first + (steps - first) * turn // self.refresh for turn in range(self.refresh)}

    @property
    def _numbers(self) -> list[int]:
        return [] if self.blocks == "all" else [int(number) for number in self.blocks.split(",")]

    def _acting(self, factors: Factors) -> Tensor:
        """Return 1 for the sites of chosen blocks and 0 for others, shape (site, 1, 1), or a single 1."""
        if not self._numbers:
            return factors.a.new_ones(())
        return factors.a.new_tensor([layer_of(site) in self._numbers for site in factors.sites])[:, None, None]

    def _psi(self, factors: Factors) -> Tensor:
        """Return every past row's weight, shape (past rank, 1), or a single 1."""
        if _RELATIONS not in factors.kept or factors.past_owner is None:
            return factors.a.new_ones(())
        psi = 1 - factors.kept[_RELATIONS].to(factors.a)
        psi = psi.clamp(0, 1) if self.negative == "clamp" else psi
        return psi[factors.past_owner][:, None]

    def _vector(self, run: Run, adapter: int | None) -> Tensor:
        others = len(run.past) if self.vectors == "current" else 0
        calls = 1 + (self.refresh * (others + 1) if run.past else 0)
        together = self.layers == "together"
        return run.attribution(
            adapter, steps=self.steps, rows=self.rows, together=together, answer=self.answer, calls=calls
        )

    def _past_vector(self, run: Run, adapter: int, new: Tensor) -> Tensor:
        if self.vectors == "current":
            return self._vector(run, adapter)
        vector = run.past[adapter].state().get(_KEPT)
        if vector is None or vector.shape != new.shape:
            raise MismatchError(
                f"earlier adapter {adapter + 1} keeps no attribution that fits; pass -o vectors=current, or train it with aso-lora",
                code="method-state-missing",
            )
        return vector.to(new)


def _by_task(run: Run) -> dict[str, float]:
    """Return the last w of every earlier adapter."""
    return dict(zip([adapter.task for adapter in run.past], run.kept[_RELATIONS].tolist(), strict=True))
