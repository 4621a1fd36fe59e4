"""What a training leaves behind (layer L3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from clora_cli.store.distribution import Distribution
    from clora_cli.training.plan import Plan

__all__ = ["Result", "portable"]


@dataclass(frozen=True, eq=False)
class Result:
    """What a training leaves behind.

    Attributes:
        tensors: PEFT's tensor names to LoRA factors.
        config: PEFT's configuration.
        history: The Trainer's log.
        state: What the methods keep for later.
        report: What they report of the result, for the manifest.
        distribution: The new adapter's feature distribution, if a method gave one.
        classes: Of an encoder's adapter, what the manifest says of its head.
    """

    tensors: Mapping[str, Tensor]
    config: Mapping[str, Any]
    history: Sequence[Mapping[str, Any]] = ()
    state: Mapping[str, Tensor] = field(default_factory=dict)
    report: Mapping[str, Any] = field(default_factory=dict)
    distribution: Distribution | None = None
    classes: Sequence[Mapping[str, Any]] = ()


def portable(config: Mapping[str, Any], plan: Plan) -> dict[str, Any]:
    """Return PEFT's configuration as it is written: with the base model's id, which other machines know, not its path."""
    return {**config, "inference_mode": True, "base_model_name_or_path": plan.reference.id}
