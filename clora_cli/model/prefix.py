"""The tokens that all rows of a batch begin with, run once (layer L1).

In a causal model what a layer makes of a token depends on the tokens up to it alone. So a beginning that rows share has the same
keys and values in all of them: they are computed for one row, in the graph, and handed to all.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from clora_cli.model.output_layer import logits_at, output_only_at

__all__ = ["SharedPrefix", "is_shareable", "shared_length"]

# What a cache of attention alone is made of. Others keep a running state, which is not made to be shared: some models
# cannot repeat it, and some go on from it as if there had been none (Jamba).
_SHAREABLE = {DynamicLayer, DynamicSlidingWindowLayer}
_INPUTS = {"input_ids", "attention_mask"}
_WORTH = 0.1  # of a batch's positions must be left out, for a second pass through the layers to pay
# How far logits may be from those of the whole, as a share of their norm; in half precision every layer rounds both.
_CLOSE = {torch.float64: 1e-6, torch.float32: 1e-3}
_CLOSE_IN_HALF = 0.05
_UNFIT = (AttributeError, IndexError, KeyError, NotImplementedError, RuntimeError, TypeError, ValueError)


class SharedPrefix:
    """Runs what rows share once, where a model can go on from there as if it had read all of each row.

    Whether it can is tried out on the first batch, with the adapters that act in it: ALiBi, experts, windows and caches of
    all kinds need no list.

    Args:
        model: A causal model, under PEFT or not, in which nothing is drawn at random and no row is treated apart.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        base: Any = getattr(model, "get_base_model", lambda: model)()
        self._fits = None if "past_key_values" in inspect.signature(base.forward).parameters else False
        self._most = _window(base.config) - 1

    def length(self, inputs: Mapping[str, Any], most: int) -> int:
        """Return how many tokens of a batch to run once; 0 where the whole is to be run as it is.

        Args:
            inputs: The model's arguments, each of shape (row, position), padded on the right.
            most: The most that are of use.
        """
        if self._fits is False or inputs.keys() != _INPUTS:
            return 0
        ids = inputs["input_ids"]
        length = min(shared_length(ids, inputs["attention_mask"]), ids.shape[1] - 1, most, self._most)
        if length < 1 or (len(ids) - 1) * length < _WORTH * ids.numel():
            return 0
        if self._fits is None:
            self._fits = self._tried({name: tensor[:2] for name, tensor in inputs.items()}, length)
        return length if self._fits else 0

    def after(self, inputs: Mapping[str, Tensor], length: int) -> dict[str, Any] | None:
        """Run the first tokens of a batch once; give the arguments with which the model goes on, for the positions after them.

        Args:
            inputs: As for ``length``.
            length: From ``length``.

        Returns:
            The arguments; None, from now on, if the model keeps anything but keys and values of all these tokens.
        """
        ids = inputs["input_ids"]
        first = ids[:1, :length]
        last = functional.pad(torch.ones_like(first[:, :1]), (length - 1, 0)).bool()
        with output_only_at(self._model, last):
            cache = self._model(input_ids=first, attention_mask=torch.ones_like(first), use_cache=True).past_key_values
        if not is_shareable(cache) or any(layer.keys.shape[-2] != length for layer in cache.layers):
            self._fits = False
            return None
        for layer in cache.layers:
            layer.keys, layer.values = (kept.expand(len(ids), -1, -1, -1) for kept in (layer.keys, layer.values))
        return {**inputs, "input_ids": ids[:, length:], "past_key_values": cache, "use_cache": True}

    @torch.no_grad()
    def _tried(self, inputs: Mapping[str, Tensor], length: int) -> bool:
        """Tell whether the model answers to a batch as if it were run whole."""
        rest = inputs["attention_mask"][:, length:].bool()
        try:
            if (given := self.after(inputs, length)) is None:
                return False
            found = logits_at(self._model(**given).logits, rest)
        except _UNFIT:
            return False
        expected = logits_at(self._model(**inputs, use_cache=False).logits[:, length:], rest)
        spread = (expected - expected.mean(dim=-1, keepdim=True)).norm()
        return bool((found - expected).norm() <= _CLOSE.get(expected.dtype, _CLOSE_IN_HALF) * spread)


def is_shareable(cache: Any) -> bool:
    """Tell whether a cache holds keys and values by token, and nothing else."""
    return type(cache) is DynamicCache and all(type(layer) in _SHAREABLE for layer in cache.layers)


def shared_length(ids: Tensor, mask: Tensor) -> int:
    """Return how many tokens all rows begin with; 0 where a row begins with padding.

    Args:
        ids: Shape (row, position).
        mask: Which of them are tokens, of the same shape.
    """
    same = ((ids == ids[:1]) & mask.bool()).all(dim=0)
    return int(same.long().cumprod(dim=0).sum())


def _window(config: Any) -> int:
    """Return over how many tokens every layer can look back."""
    text = config.get_text_config(decoder=True)
    windows = (getattr(text, name, None) for name in ("sliding_window", "attention_chunk_size"))
    return min((size for size in windows if isinstance(size, int) and size > 0), default=1 << 30)
