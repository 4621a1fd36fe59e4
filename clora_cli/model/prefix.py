"""The tokens that texts begin with, run once (layer L1).

In a causal model what a layer makes of a token depends on the tokens up to it alone. So a beginning that rows share has the same
keys and values in all of them: they are computed for one row and handed to all, of a batch in training (in the graph), or of
many batches.
"""

from __future__ import annotations

import copy
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from clora_cli.model.conventions import token_positions
from clora_cli.model.output_layer import logits_at, output_only_at

__all__ = [
    "UNFIT",
    "WORTH",
    "Beginning",
    "SharedPrefix",
    "alike_up_to",
    "are_close",
    "common_beginning",
    "is_shareable",
    "shared_length",
    "window",
]

# What a cache of attention alone is made of. Others keep a running state, which is not made to be shared: some models
# cannot repeat it, and some go on from it as if there had been none (Jamba).
_SHAREABLE = {DynamicLayer, DynamicSlidingWindowLayer}
_INPUTS = {"input_ids", "attention_mask"}
# What configurations call the number of tokens that a layer looks back over, or from which on it leaves some out.
_WINDOW = re.compile(r"window(?:_size|_len)?$|^(?:local_attention|attention_chunk_size|index_topk|index_block_size)$")
_TRIED = 24  # tokens after a beginning that are tried out, of two rows
WORTH = 0.1  # of a batch's positions must be left out, for a second pass through the layers to pay
# How far logits may be from those of the whole, as a share of their norm; in half precision every layer rounds both.
_CLOSE = {torch.float64: 1e-6, torch.float32: 1e-3}
_CLOSE_IN_HALF = 0.05
# What models raise that cannot go on: XLM asserts that a mask has two axes.
UNFIT = (AssertionError, AttributeError, IndexError, KeyError, NotImplementedError, RuntimeError, TypeError, ValueError)


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
        self._most, self._alike = window(base.config) - 1, alike_up_to(base.config)

    def length(self, inputs: Mapping[str, Any], most: int) -> int:
        """Return how many tokens of a batch to run once; 0 where the whole is to be run as it is.

        Args:
            inputs: The model's arguments, each of shape (row, position), padded on the right.
            most: The most that are of use.
        """
        if self._fits is False or inputs.keys() != _INPUTS or inputs["input_ids"].shape[1] > self._alike:
            return 0
        ids = inputs["input_ids"]
        length = min(shared_length(ids, inputs["attention_mask"]), ids.shape[1] - 1, most, self._most)
        if length < 1 or (len(ids) - 1) * length < WORTH * ids.numel():
            return 0
        if self._fits is None:
            self._fits = self._tried({name: tensor[:2, : length + _TRIED] for name, tensor in inputs.items()}, length)
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
        if not _keeps_all(cache, length):
            self._fits = False
            return None
        handed = Beginning(ids[0, :length].tolist(), cache).cache(len(ids))
        return {**inputs, "input_ids": ids[:, length:], "past_key_values": handed, "use_cache": True}

    @torch.no_grad()
    def _tried(self, inputs: Mapping[str, Tensor], length: int) -> bool:
        """Tell whether the model answers to a batch as if it were run whole."""
        rest = inputs["attention_mask"][:, length:].bool()
        try:
            if (given := self.after(inputs, length)) is None:
                return False
            found = logits_at(self._model(**given).logits, rest)
        except UNFIT:
            return False
        return are_close(found, logits_at(self._model(**inputs, use_cache=False).logits[:, length:], rest))


class Beginning:
    """What a causal model keeps of the tokens that texts begin with.

    Args:
        ids: The tokens.
        cache: Their keys and values, of one row; of a pass that ended early, those of the layers before.

    Attributes:
        ids: The tokens.
    """

    def __init__(self, ids: list[int], cache: DynamicCache) -> None:
        self.ids, self._cache = ids, cache

    @classmethod
    def read(cls, model: Any, ids: list[int]) -> Beginning | None:
        """Let a model read a beginning; None if it keeps anything but keys and values of all these tokens."""
        last = torch.zeros(1, len(ids), dtype=torch.bool, device=model.device)
        last[:, -1] = True
        with output_only_at(model, last):
            begun = cls.read_by(model, ids, model)
        return begun if begun and _keeps_all(begun._cache, len(ids)) else None

    @classmethod
    def read_by(cls, run: Callable[..., Any], ids: list[int], model: Any) -> Beginning | None:
        """Let a pass that may end early read a beginning; None if it ends before the first layer has kept anything.

        Args:
            run: Takes the model's arguments.
            ids: The tokens.
            model: Of which it is known that it goes on from a beginning.
        """
        first = torch.tensor([ids], device=model.device)
        cache = DynamicCache(config=model.config)
        run(input_ids=first, attention_mask=torch.ones_like(first), past_key_values=cache, use_cache=True)
        return cls(ids, cache) if cache.get_seq_length() == len(ids) else None

    def cache(self, rows: int) -> DynamicCache:
        """Return the keys and values for so many rows, to go on from; what is added to them is in no other rows' cache."""
        handed = copy.copy(self._cache)
        handed.layers = [copy.copy(layer) for layer in self._cache.layers]
        for layer in handed.layers:
            if layer.keys is not None and layer.values is not None:
                layer.keys, layer.values = (kept.expand(rows, -1, -1, -1) for kept in (layer.keys, layer.values))
        return handed

    def before(self, batch: Mapping[str, Tensor], positions: int | None) -> dict[str, Any]:
        """Return the arguments with which a model goes on from here.

        Args:
            batch: ``input_ids`` and ``attention_mask`` of what follows, (row, position); padding may stand on either side.
            positions: A text's first position, for models that are told positions.
        """
        mask = functional.pad(batch["attention_mask"], (len(self.ids), 0), value=1)
        given = {**batch, "attention_mask": mask, "past_key_values": self.cache(len(mask))}
        if positions is not None:
            given["position_ids"] = token_positions(mask, positions)[:, len(self.ids) :]
        return given


def are_close(found: Tensor, expected: Tensor) -> bool:
    """Tell whether logits, in the last axis, are others' but for rounding; both may be in half precision."""
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


def _keeps_all(cache: Any, length: int) -> bool:
    return is_shareable(cache) and all(
        layer.keys is not None and layer.keys.shape[-2] == length for layer in cache.layers
    )


def common_beginning(texts: Sequence[list[int]]) -> int:
    """Return how many tokens all texts begin with, the last token of the shortest left out."""
    low, high = (
        min(texts),
        max(texts),
    )  # in the order of words in a dictionary, what lies between shares what these share
    same = next((place for place, pair in enumerate(zip(low, high, strict=False)) if pair[0] != pair[1]), len(low))
    return min(same, min(map(len, texts)) - 1)


def alike_up_to(config: Any) -> int:
    """Return up to what length of a text the positions of its first tokens are the same, whatever follows."""
    text = config.get_text_config(decoder=True)
    given = getattr(text, "rope_parameters", None) or {}
    sets = [given, *(one for one in given.values() if isinstance(one, dict))]
    if not any(one.get("rope_type") in {"dynamic", "longrope"} for one in sets):
        return 1 << 30
    named = [one.get("original_max_position_embeddings") for one in sets]
    named += [getattr(text, name, None) for name in ("original_max_position_embeddings", "max_position_embeddings")]
    return min(size for size in (*named, 1 << 30) if isinstance(size, int))


def window(config: Any) -> int:
    """Return over how many tokens every layer can look back."""
    text = config.get_text_config(decoder=True)
    named = [name for name in vars(text) if _WINDOW.search(name)]
    # Asked for by name too: of some the sliding window follows from another number.
    windows = (getattr(text, name, None) for name in ("sliding_window", *named))
    return min((size for size in windows if type(size) is int and size > 0), default=1 << 30)
