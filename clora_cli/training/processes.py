"""Several processes of one run (layer L3): who takes which rows, and sums over all of them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, distributed

__all__ = ["own_share", "processes", "summed"]


def processes() -> int:
    """Return how many processes train together."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def own_share(rows: Sequence[int]) -> Sequence[int]:
    """Return those of some rows that are this process's to work on."""
    return rows[distributed.get_rank() :: processes()] if processes() > 1 else rows


def summed(tensor: Tensor, device: torch.device) -> Tensor:
    """Return the sum of a tensor over all processes, where the tensor was.

    Args:
        tensor: This process's.
        device: Where the processes meet: that of the model.
    """
    if processes() == 1:
        return tensor
    total = tensor.to(device, copy=True)
    distributed.all_reduce(total)
    return total.to(tensor.device)
