"""Pad items of different lengths to one batch (layer L1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from clora_cli.data.tokens import IGNORED, Tokens

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Collator", "pad_id"]

Side = Literal["left", "right"]


class Collator:
    """Pads a list of items to a batch of tensors, with an explicit attention mask.

    The mask comes from the lengths, never from the padding id, so that texts may contain the padding token.

    Args:
        tokenizer: A Transformers tokenizer, or a model's ``Tokens``; it determines the padding id.
        side: ``right`` to train; ``left`` to generate from causal prompts.
        multiple_of: Round lengths up to a multiple of this, for fewer shapes; 0 for no rounding.
    """

    def __init__(self, tokenizer: Any, *, side: Side = "right", multiple_of: int = 0) -> None:
        self.pad = pad_id(tokenizer)
        self.side = side
        self.multiple_of = multiple_of

    def __call__(self, items: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """Return ``input_ids`` and ``attention_mask`` (batch, token), ``labels`` if the items have any.

        Labels are padded with -100: beside the tokens in causal items, on the right otherwise. A number under any
        other key becomes a (batch,) tensor.
        """
        import torch

        ids = [list(item["input_ids"]) for item in items]
        batch = {
            "input_ids": self._pad(ids, self.pad, self.side),
            "attention_mask": self._pad([[1] * len(row) for row in ids], 0, self.side),
        }
        if all("labels" in item for item in items):
            labels = [list(item["labels"]) for item in items]
            beside = all(_beside(row, row_labels) for row, row_labels in zip(ids, labels, strict=True))
            batch["labels"] = self._pad(labels, IGNORED, self.side if beside else "right")
        for key in items[0].keys() - {"input_ids", "labels", "attention_mask"}:
            batch[key] = torch.tensor([item[key] for item in items])
        return batch

    def _pad(self, rows: Sequence[list[int]], value: int, side: Side) -> Tensor:
        import torch

        width = max(len(row) for row in rows)
        if self.multiple_of:
            width = -(-width // self.multiple_of) * self.multiple_of
        fills = [[value] * (width - len(row)) for row in rows]
        pairs = zip(rows, fills, strict=True)
        return torch.tensor([fill + row if side == "left" else row + fill for row, fill in pairs], dtype=torch.long)


def pad_id(tokenizer: Any) -> int:
    """Return the padding id; see :attr:`clora_cli.data.tokens.Tokens.pad`."""
    return Tokens.of(tokenizer).pad


def _beside(ids: Sequence[int], labels: Sequence[int]) -> bool:
    """Whether labels are aligned with the input tokens, as in causal items."""
    return len(ids) == len(labels) and all(label in (IGNORED, token) for token, label in zip(ids, labels, strict=True))
