"""Where a batch's answers are (layer L3)."""

from __future__ import annotations

from torch import Tensor

__all__ = ["answer_logits"]


def answer_logits(logits: Tensor, labels: Tensor, shift: bool) -> tuple[Tensor, Tensor]:
    """Return the logits that predict answer tokens, shape (token, vocabulary), float32, and those tokens, shape (token,).

    Args:
        logits: Shape (row, position, vocabulary).
        labels: Shape (row, position), -100 where there is no answer.
        shift: Whether logits at a position predict the next one (causal) or their own (encoder-decoder).
    """
    if shift:
        logits, labels = logits[:, :-1], labels[:, 1:]
    chosen = labels != -100
    return logits[chosen].float(), labels[chosen]
