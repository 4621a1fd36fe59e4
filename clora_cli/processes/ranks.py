"""Several processes of one run: which one writes, how rows are divided, sums and copies over all of them (layer L0).

PyTorch is imported only where the processes meet: which one prints must be known before anything is loaded.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import torch
    from torch import Tensor

T = TypeVar("T")

__all__ = ["gathered", "is_main_process", "own_share", "processes", "rank", "rounds", "spread", "summed"]


def is_main_process() -> bool:
    """Tell whether this is the one process of a launch that prints and writes."""
    return os.environ.get("RANK", "0") == "0"


def processes() -> int:
    """Return the number of processes that have met."""
    from torch import distributed

    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def rank() -> int:
    """Return this process's number among those that have met, from 0."""
    from torch import distributed

    return distributed.get_rank() if processes() > 1 else 0


def own_share(rows: Sequence[T]) -> Sequence[T]:
    """Return this process's share of some rows, or of any other items."""
    return rows[rank() :: processes()]


def rounds(items: Sequence[T], *, equal: bool) -> Iterator[tuple[T, bool]]:
    """Yield this process's share of some items, each with True.

    Args:
        items: The same in all processes.
        equal: Whether all are to get equally many, because none can run the model without the others. One that has none
            left then gets another's, with False: it is to be run, and the result given up.
    """
    if not equal:
        yield from ((item, True) for item in own_share(items))
        return
    own, size = rank(), processes()
    for start in range(0, len(items), size):
        at_once = items[start : start + size]
        yield at_once[min(own, len(at_once) - 1)], own < len(at_once)


def summed(tensor: Tensor, device: torch.device) -> Tensor:
    """Return the sum of a tensor over all processes, on the tensor's own device.

    Args:
        tensor: This process's.
        device: The device through which the processes exchange tensors: the model's.
    """
    from torch import distributed

    if processes() == 1:
        return tensor
    total = tensor.to(device, copy=True)
    distributed.all_reduce(total)
    return total.to(tensor.device)


def gathered(tensor: Tensor, device: torch.device) -> list[Tensor]:
    """Return every process's tensor, in the order of their numbers, on the tensor's own device.

    Args:
        tensor: This process's, of the same shape in all.
        device: The device through which the processes exchange tensors: the model's.
    """
    import torch
    from torch import distributed

    if processes() == 1:
        return [tensor]
    parts = [torch.empty_like(tensor, device=device) for _ in range(processes())]
    distributed.all_gather(parts, tensor.contiguous().to(device))
    return [part.to(tensor.device) for part in parts]


def spread(tensor: Tensor, owner: int, device: torch.device) -> Tensor:
    """Return one process's tensor in all processes, on the tensor's own device.

    Args:
        tensor: The owner's; of the same shape and type in the others.
        owner: Its number.
        device: The device through which the processes exchange tensors: the model's.
    """
    from torch import distributed

    if processes() == 1:
        return tensor
    given = tensor.to(device, copy=True)
    distributed.broadcast(given, owner)
    return given.to(tensor.device)
