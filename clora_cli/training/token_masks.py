"""Which of the vectors that a layer sees are tokens, and which are padding (layer L3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.nn import functional

from clora_cli.data.tokens import IGNORED

__all__ = ["apart", "masks_of", "weights_for"]


def apart(inputs: Mapping[str, Any], seq2seq: bool) -> dict[str, Any]:
    """Pad prompts by one where they are as long as the answers, so that a layer's length says which of them it sees."""
    given = dict(inputs)
    if seq2seq and given["input_ids"].shape == given["labels"].shape:
        given |= {name: functional.pad(given[name], (0, 1)) for name in ("input_ids", "attention_mask")}
    return given


def masks_of(inputs: Mapping[str, Tensor], seq2seq: bool) -> list[Tensor]:
    """Return the masks of a batch's tokens: of the prompts, and of the answers where a decoder takes them apart."""
    return [inputs["attention_mask"]] + [inputs["labels"] != IGNORED] * seq2seq


def weights_for(vectors: Tensor, masks: Sequence[Tensor]) -> Tensor:
    """Return 1 for vectors that are tokens and 0 for padding, shape (vector,); 1 for all where no mask is of their number.

    Args:
        vectors: What a layer takes or gives, shape (vector, feature).
        masks: From ``masks_of``.
    """
    mask = next((mask.reshape(-1) for mask in masks if mask.numel() == len(vectors)), None)
    return vectors.new_ones(len(vectors)) if mask is None else mask.to(vectors)
