"""Draw the next token of each row by settings and a seed of its own (layer L1).

Transformers' ``generate`` knows one way to draw tokens for a whole batch, from one source of random numbers. Here a row's draws
depend on its own seed and scores alone: the same whatever else is in the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import LogitsProcessor

__all__ = ["Draw", "Drawing"]


@dataclass(frozen=True, kw_only=True)
class Draw:
    """How a row's tokens are chosen.

    Attributes:
        temperature: 0 takes the likeliest token; above 0 tokens are drawn.
        top_k: Tokens are drawn from so many of the likeliest; 0 for all.
        top_p: And from the likeliest ones that together have this probability, in (0, 1].
        seed: Of the draws; None for another one each time.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int | None = None


class Drawing(LogitsProcessor):  # type: ignore[misc]
    """Leaves each drawing row no token but the one that it drew; ``generate`` then takes the likeliest.

    Args:
        draws: How, in the batch's order.
    """

    def __init__(self, draws: Sequence[Draw]) -> None:
        self._draws = {number: draw for number, draw in enumerate(draws) if draw.temperature > 0}
        self._sources = {number: _source(draw.seed) for number, draw in self._draws.items()}

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return the scores, with one finite number for each drawing row."""
        for number, draw in self._draws.items():
            token = _drawn(scores[number].cpu(), draw, self._sources[number])
            scores[number] = float("-inf")
            scores[number, token] = 0.0
        return scores


def _source(seed: int | None) -> torch.Generator:
    source = torch.Generator()
    if seed is None:
        source.seed()
    else:
        source.manual_seed(seed)
    return source


def _drawn(scores: Tensor, draw: Draw, source: torch.Generator) -> int:
    below = scores.double() - scores.max()  # at most 0, which no temperature makes infinitely large
    chances, order = (below / draw.temperature).softmax(dim=0).sort(descending=True)
    if draw.top_k:
        chances, order = chances[: draw.top_k], order[: draw.top_k]
    before = chances.cumsum(dim=0) - chances
    chances = chances.masked_fill(before >= draw.top_p * chances.sum(), 0.0)
    return int(order[torch.multinomial(chances, 1, generator=source)])
