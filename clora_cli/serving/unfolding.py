"""Answers as they unfold, token by token, each row of a batch with settings of its own (layer L3).

Transformers' ``generate`` knows one way to draw tokens and one length for a whole batch. Rows of their own are made by what it
calls at every step: ``model.drawing`` leaves a drawing row no token but the one it drew, ``Unfolding`` says which rows have ended.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import StoppingCriteria

from clora_cli.base.errors import CloraError
from clora_cli.serving.asked import Asked, Decoding, Listener

__all__ = ["Row", "Unfolding"]

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

    def fail(self, error: CloraError) -> None:
        """End without an answer."""
        if not self.over:
            self.over = True
            self._listener.failed(error)

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
