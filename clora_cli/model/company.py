"""A forward pass in which some rows of a batch are read a second time, beside themselves (layer L1).

What a model makes of the copies can decide what is done to the rows: one pass over both costs less than two passes, by what a
pass costs whatever it reads. Whoever runs the model sees the rows alone.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import DynamicCache

from clora_cli.model.conventions import keeps_rows_apart
from clora_cli.model.prefix import is_shareable

__all__ = ["accompanied", "takes_company"]

_BY_ROW = {"input_ids": 0, "attention_mask": 0, "position_ids": -2}  # the axis of rows


def takes_company(model: Any) -> bool:
    """Tell whether a causal model keeps its rows apart, and nothing of them but keys and values."""
    if "past_key_values" not in inspect.signature(model.forward).parameters or not keeps_rows_apart(model):
        return False
    return is_shareable(DynamicCache(config=model.config))


@contextlib.contextmanager
def accompanied(model: nn.Module, rows: Tensor, size: int, then: Callable[[], None]) -> Iterator[None]:
    """Let the first forward pass in a block read some rows a second time, behind the batch; later ones read what they are given.

    Args:
        model: One that ``takes_company``; its pass is over whole prompts and fills a cache.
        rows: Numbers of the rows.
        size: Rows of the batch.
        then: Called after that pass, when the copies have left cache and logits.
    """
    handles: list[Any] = []

    def enter(
        module: nn.Module, given: tuple[Any, ...], named: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return given, {name: _with_copies(name, value, rows, size) for name, value in named.items()}

    def leave(module: nn.Module, given: tuple[Any, ...], output: Any) -> None:
        while handles:
            handles.pop().remove()
        output.past_key_values.batch_select_indices(torch.arange(size, device=rows.device))
        output.logits = output.logits[:size]
        then()

    handles += [model.register_forward_pre_hook(enter, with_kwargs=True), model.register_forward_hook(leave)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _with_copies(name: str, value: Any, rows: Tensor, size: int) -> Any:
    axis = _BY_ROW.get(name)
    if axis is None or not isinstance(value, Tensor) or value.shape[axis] != size:
        return value
    return torch.cat([value, value.index_select(axis, rows)], dim=axis)
