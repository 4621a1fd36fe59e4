"""Train one LoRA on, then merge it with the last one rank by rank, by how much each task needs each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from clora_cli.base.intervals import check_option
from clora_cli.methods import Method, Run

__all__ = ["Tasl"]

_MEAN, _SPREAD, _KEPT = "sensitivity", "uncertainty", "importance"
_TEMPERATURE = 0.25


@dataclass(frozen=True, kw_only=True)
class Tasl(Method):
    """Train one LoRA on, then merge it with the last one rank by rank, by how much each task needs each.

    A unit is one rank at one site: a row of lora_A and a column of lora_B. While it is trained, every entry's sensitivity
    ``I = |w dL/dw|`` is averaged, ``M <- beta M + (1 - beta) I`` and ``U <- beta U + (1 - beta) |I - M|``; a unit's score is the mean of
    ``M U`` over its entries, brought to [0, 1] over all units. At the end, with the score now and the importance so far, whose
    largest ``share`` matter: a unit that both need becomes ``new * tuned + (1 - new) * last``, one that only the past needs is the
    last one's, one that only the task needs is the tuned one, and one that neither needs is their mean. The importance becomes
    ``new * score + (1 - new) * importance``, brought to [0, 1] again.

    Args:
        merging: ``shares`` as above, or ``soft``: weights by the softmax of score and importance at temperature 0.25.
        share: The share of the units that matter, in (0, 1].
        new: The weight of the new task where both matter, in [0, 1].
        beta: Of the moving averages, in [0, 1).

    References:
        Feng et al., TaSL: Continual Dialog State Tracking via Task Skill Localization and Consolidation, ACL 2024,
        arXiv:2408.09857; its extension to LoRA's ranks (TasLoRA), arXiv:2408.05200. Numbers are the published code's.
        Differs: a step's gradient counts before clipping and before any penalty of a method that acts later, without a warm-up.
        Differs: the first task's LoRA is kept as it is.
    """

    past = "none"
    start = "previous"
    combine = "last"

    merging: Literal["shares", "soft"] = "shares"
    share: float = 0.2
    new: float = 0.3
    beta: float = 0.85

    def __post_init__(self) -> None:
        """Check the options."""
        check_option("tasl", "share", self.share, "(0, 1]")
        check_option("tasl", "new", self.new, "[0, 1]")
        check_option("tasl", "beta", self.beta, "[0, 1)")

    @torch.no_grad()
    def gradients(self, run: Run) -> None:
        """Average the sensitivities of this step."""
        for site, factor in run.trainable.items():
            for side, own in (("a", factor.a), ("b", factor.b)):
                if own.grad is None:
                    continue
                now = (own * own.grad).abs()
                mean, spread = (
                    run.kept.get(f"{name}_{side}/{site}", torch.zeros_like(now)).to(now) for name in (_MEAN, _SPREAD)
                )
                mean = torch.lerp(now, mean, self.beta)
                run.kept[f"{_MEAN}_{side}/{site}"] = mean
                run.kept[f"{_SPREAD}_{side}/{site}"] = torch.lerp((now - mean).abs(), spread, self.beta)

    @torch.no_grad()
    def finish(self, run: Run) -> Mapping[str, Tensor]:
        """Merge with the last LoRA, and return each unit's importance."""
        scores = scaled({site: self._score(run, site) for site in run.trainable})
        before, last = (run.past[-1].state(), run.past[-1].factors()) if run.past else ({}, {})
        known = {site: before.get(f"{_KEPT}/{site}", torch.zeros_like(score)) for site, score in scores.items()}
        for site, found in self.weights(scores, known).items() if last else ():
            factor, weights = run.trainable[site], found.to(run.trainable[site].a)
            factor.a.copy_(torch.lerp(last[site].a.to(factor.a), factor.a, weights[:, None]))
            factor.b.copy_(torch.lerp(last[site].b.to(factor.b), factor.b, weights))
        joint = {site: torch.lerp(known[site], score, self.new) if last else score for site, score in scores.items()}
        return {f"{_KEPT}/{site}": score for site, score in scaled(joint).items()}

    def weights(self, scores: Mapping[str, Tensor], known: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the tuned LoRA's weight in each unit, by site, shape (rank,), in [0, 1]."""
        if self.merging == "soft":
            return {site: torch.sigmoid((own - known[site]) / _TEMPERATURE) for site, own in scores.items()}
        mine, theirs = (self._mattering(given) for given in (scores, known))
        table = torch.tensor([[0.5, 0.0], [1.0, self.new]])  # by whether it matters now, and before
        return {site: table[mine[site].long(), theirs[site].long()] for site in scores}

    def _mattering(self, scores: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tell which units matter: the largest, none where all are 0."""
        whole = torch.cat(list(scores.values()))
        count = max(1, round(self.share * len(whole)))
        least = whole.sort(descending=True).values[count - 1]
        return {site: (own >= least) & (own > 0) for site, own in scores.items()}

    def _score(self, run: Run, site: str) -> Tensor:
        """Return a site's scores, shape (rank,), on the CPU."""
        means = [run.kept.get(f"{_MEAN}_{side}/{site}") for side in ("a", "b")]
        spreads = [run.kept.get(f"{_SPREAD}_{side}/{site}") for side in ("a", "b")]
        rows = [m * s for m, s in zip(means, spreads, strict=True) if m is not None and s is not None]
        if len(rows) < len(means):
            return torch.zeros(run.trainable[site].rank)
        return torch.cat([rows[0], rows[1].mT], dim=1).mean(dim=1).cpu()


def scaled(scores: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Bring scores to [0, 1] over all sites; 0 where all are equal."""
    whole = torch.cat(list(scores.values()))
    low, high = whole.min(), whole.max()
    return {site: (own - low) / (high - low).clamp(min=torch.finfo(own.dtype).tiny) for site, own in scores.items()}
