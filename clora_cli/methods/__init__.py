"""Continual-learning methods (layer L2): one file each.

A method is a frozen dataclass. Its fields are its options; what differs from plain LoRA on top of frozen earlier
adapters is said by three class attributes and at most one function:

- ``past``: how earlier adapters enter the forward pass while the new one is trained,
- ``start``: where the new adapter starts,
- ``combine``: how the adapters are combined when the package is evaluated,
- ``penalty``: a term of the loss that depends on adapter tensors alone, with its gradient in closed form.

The training loop calls ``penalty`` once per optimizer step, however many micro-batches or processes make it up.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

__all__ = ["Factors", "Method", "Penalty"]


@dataclass(frozen=True, eq=False)
class Factors:
    """The new adapter's factors at all sites of one shape, stacked, with those of the past.

    Attributes:
        a: The new adapter's ``lora_A``, shape (site, rank, in), float32.
        b: The new adapter's ``lora_B``, shape (site, out, rank), float32.
        scaling: Its scaling, so that its delta is ``scaling * b @ a``.
        past_a: ``lora_A`` of all earlier adapters, concatenated, shape (site, past rank, in); None without a past.
        past_b: ``lora_B`` of all earlier adapters times their scalings, shape (site, out, past rank); None without a past.
        total_sites: Number of sites of the whole adapter, in this stack and in others, for means over sites.
    """

    a: Tensor
    b: Tensor
    scaling: float
    past_a: Tensor | None
    past_b: Tensor | None
    total_sites: int = 1


@dataclass(frozen=True, eq=False)
class Penalty:
    """One method's term of the loss over one stack of sites, its strength included.

    Attributes:
        value: Scalar tensor, summed over sites.
        grad_a: Gradient with respect to ``Factors.a``, or None where it is zero.
        grad_b: Gradient with respect to ``Factors.b``, or None where it is zero.
    """

    value: Tensor
    grad_a: Tensor | None = None
    grad_b: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class Method:
    """Base of all methods: a fresh LoRA on top of the frozen sum of earlier ones, without a penalty."""

    past: ClassVar[Literal["none", "sum"]] = "sum"
    start: ClassVar[Literal["fresh", "previous"]] = "fresh"
    combine: ClassVar[Literal["sum", "last", "task-id"]] = "sum"

    def penalty(self, factors: Factors) -> Penalty | None:
        """Return this method's term for one stack of sites, or None where it does not act."""
        return None
