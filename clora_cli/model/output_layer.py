"""The output layer where it is asked for, and nowhere else (layer L1)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any

from torch import Tensor, nn

from clora_cli.base.errors import CloraError
from clora_cli.model.head_layers import output_of

__all__ = ["check_numbers", "logits_at", "no_numbers", "not_finite", "output_layer", "output_only_at"]

_innermost: ContextVar[Mapping[nn.Module, Tensor]] = ContextVar("innermost", default=MappingProxyType({}))


def output_layer(model: Any) -> nn.Module | None:
    """Return the layer that makes logits of a model's last states, or of an encoder's; None where there is none."""
    if (path := output_of(model)) is not None:
        found: nn.Module = (model.get_base_model() if hasattr(model, "get_base_model") else model).get_submodule(path)
        return found
    return getattr(model, "get_output_embeddings", lambda: None)()


@contextlib.contextmanager
def output_only_at(model: nn.Module, chosen: Tensor) -> Iterator[None]:
    """For one forward pass, compute logits only at some positions.

    It is the output layer's input that is cut, so that adapters in the layer, and a bias, a scale or a cap after it, act as
    ever. Logits come out row after row for ``logits_at``: as (row, chosen position, vocabulary) where all rows have as many, else
    as (1, chosen position, vocabulary). A model whose output layer takes anything but (row, position, width) gives those of
    all positions. Of two such passes, one inside the other, each has its own positions.

    Args:
        model: The model, under PEFT or not.
        chosen: Where, shape (row, position), bool; nowhere means everywhere.
    """

    def cut(module: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...] | None:
        states = given[0] if given and _innermost.get().get(module) is chosen else None
        if not isinstance(states, Tensor) or states.shape[:-1] != chosen.shape:
            return None
        return states[chosen].view(rows, -1, states.shape[-1]), *given[1:]

    counts = chosen.sum(dim=1)
    rows = len(chosen) if bool((counts == counts[:1]).all()) else 1
    layer = output_layer(model)
    if layer is None:
        yield
        return
    before = _innermost.set({**_innermost.get(), layer: chosen})
    handle = layer.register_forward_pre_hook(cut) if bool(chosen.any()) else None
    try:
        yield
    finally:
        _innermost.reset(before)
        if handle is not None:
            handle.remove()


def logits_at(logits: Tensor, chosen: Tensor) -> Tensor:
    """Return the logits at some positions, shape (chosen position, vocabulary), whether or not others were computed.

    Args:
        logits: Of all positions, shape (row, position, vocabulary), or as they come out of ``output_only_at``; of a classification
            head, whose answers are one token, shape (row, class).
        chosen: Where, shape (row, position), bool.
    """
    if logits.ndim == 2:
        return logits
    if logits.shape[:2] == chosen.shape:  # of one row and all its positions both ways are the same
        return logits[chosen]
    return logits.flatten(0, 1)


def check_numbers(values: Tensor, model: str) -> None:
    """Refuse an output from which no answer follows: the likeliest of tokens or labels would be whichever comes first.

    Args:
        values: What is to be compared, of any shape.
        model: The model's name, for messages.

    Raises:
        CloraError: If a value is no number, or infinitely large.
    """
    if bool(no_numbers(values).any()):
        raise not_finite(model)


def no_numbers(values: Tensor) -> Tensor:
    """Tell of each value whether it is no number, or infinitely large."""
    return values.isnan() | values.isposinf()


def not_finite(model: str) -> CloraError:
    """Return the error of ``check_numbers``."""
    return CloraError(
        f"{model} computes values that are no numbers: try --dtype float32; if that changes nothing, its weights or an "
        "adapter's hold such values (clora scan ADAPTER tells)",
        code="outputs-not-finite",
    )
