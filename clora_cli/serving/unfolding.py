"""Answers as they unfold, token by token, each row of a batch with settings of its own (layer L3).

Transformers' ``generate`` knows one way to draw tokens and one length for a whole batch. Rows of their own are made by what it
calls at every step: ``Drawing`` leaves a drawing row no token but the one it drew, ``Unfolding`` says which rows have ended.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor, StoppingCriteria

from clora_cli.serving.asked import Asked, Decoding, Listener

__all__ = ["Drawing", "Row", "Unfolding"]

_HALF = "\ufffd"  # what the bytes of a letter decode to before the last of them has come


class Row:
    """One answer.

    Args:
        asked: The prompt.
        decoding: How.
        read: Tokens of the prompt.
        ends: Tokens that end an answer.
        decode: Turns tokens into text.

    Attributes:
        over: Whether the answer is complete, or no longer wanted.
    """

    def __init__(
        self, asked: Asked, decoding: Decoding, read: int, ends: Collection[int], decode: Callable[[list[int]], str]
    ) -> None:
        self.decoding, self.over = decoding, False
        self._listener: Listener = asked.listener
        self._read, self._ends, self._decode = read, ends, decode
        self._follows = asked.eager or bool(decoding.stop)
        self._eager, self._tokens, self._sent = asked.eager, list[int](), ""

    def take(self, token: int) -> None:
        """Take the next token."""
        if self.over:
            return
        if token in self._ends:
            self._finish("stop", 1)
            return
        self._tokens.append(token)
        if not self._listener.wanted():
            self.over = True
        elif self._follows and self._stopped():
            self._finish("stop")
        elif len(self._tokens) >= self.decoding.max_new_tokens:
            self._finish("length")

    def _stopped(self) -> bool:
        """Say what is certain to stay; tell whether one of the texts that stop an answer has come."""
        text = self._text()
        if any(stop in text for stop in self.decoding.stop):
            return True
        held = max((len(stop) - 1 for stop in self.decoding.stop), default=0)
        if self._eager:
            certain = text.rstrip(_HALF)
            self._say(certain[: len(certain) - held].rstrip())
        return False

    def _finish(self, reason: str, end: int = 0) -> None:
        self.over = True
        text = self._text()
        cuts = [place for stop in self.decoding.stop if (place := text.find(stop)) >= 0]
        self._say(text[: min(cuts, default=len(text))].rstrip())
        self._listener.finished(reason, (self._read, len(self._tokens) + end))

    def _text(self) -> str:
        return self._decode(self._tokens).lstrip()

    def _say(self, text: str) -> None:
        if len(text) > len(self._sent):
            self._listener.said(text[len(self._sent) :])
            self._sent = text


class Unfolding(StoppingCriteria):  # type: ignore[misc]
    """Gives each row its tokens, and tells which have ended.

    Args:
        rows: In the batch's order.
        first: Called before the first tokens are given.
    """

    def __init__(self, rows: Sequence[Row], first: Callable[[], None]) -> None:
        self._rows, self._first = rows, first
        self._begun = False

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Tensor:
        """Return whether each row has ended, shape (row,)."""
        if not self._begun:
            self._first()
            self._begun = True
        for row, token in zip(self._rows, input_ids[:, -1].tolist(), strict=True):
            row.take(token)
        return torch.tensor([row.over for row in self._rows], device=input_ids.device)


class Drawing(LogitsProcessor):  # type: ignore[misc]
    """Draws the next token of the rows that ask for it; a row's draws depend on its own seed and scores alone.

    Args:
        rows: In the batch's order.
    """

    def __init__(self, rows: Sequence[Row]) -> None:
        self._draws = {number: row.decoding for number, row in enumerate(rows) if row.decoding.temperature > 0}
        self._sources = {number: _source(decoding.seed) for number, decoding in self._draws.items()}

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return the scores, with one finite number for each drawing row."""
        for number, decoding in self._draws.items():
            token = _drawn(scores[number].cpu(), decoding, self._sources[number])
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


def _drawn(scores: Tensor, decoding: Decoding, source: torch.Generator) -> int:
    chances, order = (scores.double() / decoding.temperature).softmax(dim=0).sort(descending=True)
    before = chances.cumsum(dim=0) - chances
    chances = chances.masked_fill(before >= decoding.top_p, 0.0)
    return int(order[torch.multinomial(chances, 1, generator=source)])
