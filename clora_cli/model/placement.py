"""Where a base model's weights must be for adapters to be added to its layers' outputs (layer L1)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

from clora_cli.base.errors import MismatchError

__all__ = ["check_placement"]


def check_placement(model: nn.Module) -> None:
    """Refuse a model whose layers do not give their whole outputs, or have no weights between passes.

    Raises:
        MismatchError: If it was split by tensor parallelism, or some of its layers are offloaded.
    """
    if (getattr(model, "_tp_size", None) or 1) > 1:
        raise MismatchError(
            "the base model is split by tensor parallelism: a layer's output is a slice there, and an adapter's is whole; "
            "load it with fsdp_size in place of tp_size, as --shard does",
            code="model-tensor-parallel",
        )
    for name, module in model.named_modules():
        if any(getattr(hook, "offload", False) for hook in _hooks(getattr(module, "_hf_hook", None))):
            raise MismatchError(
                f"layer '{name}' of the base model is offloaded: without its weights it cannot be adapted; load the model "
                "whole, in 4 bit (--quantize), or divided among processes (--shard)",
                code="model-offloaded",
            )


def _hooks(hook: Any) -> Iterator[Any]:
    """Yield Accelerate's hooks of a module, which may be several in one."""
    yield from getattr(hook, "hooks", [hook])
