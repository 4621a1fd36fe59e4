"""Directions that an adapter's delta singles out (layer L1)."""

from __future__ import annotations

import torch
from torch import Tensor

from clora_cli.algebra.lora import Factor, truncate

__all__ = ["leading_input"]


def leading_input(delta: Factor | Tensor, seed: int = 0) -> Tensor:
    """Return the first right singular vector of a delta, shape (in,), float64: the input that it amplifies most.

    Of factors it is found without forming the delta. 0 where the delta is 0; its sign is arbitrary.

    Args:
        delta: The pair, or a dense delta, whose decomposition is randomised where it is large.
        seed: Of the randomised one.
    """
    if isinstance(delta, Tensor):
        delta = truncate(delta, 1, seed)[0]
    _, outputs = torch.linalg.qr(delta.b.double())
    _, sizes, right = torch.linalg.svd(outputs @ delta.a.double(), full_matrices=False)
    first: Tensor = right[0] * (sizes[0] > 0)
    return first
