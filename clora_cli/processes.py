"""Several processes of one run: which one writes, who takes which rows, sums over all of them (layer L0).

PyTorch is imported where the processes meet: who speaks must be known before anything is loaded.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor

__all__ = ["gathered", "is_main_process", "own_share", "processes", "rank", "summed", "together", "wait_for_all"]


def is_main_process() -> bool:
    """Tell whether this is the process that speaks and writes, among those of a distributed launch."""
    return os.environ.get("RANK", "0") == "0"


def processes() -> int:
    """Return how many processes have met."""
    from torch import distributed

    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def rank() -> int:
    """Return this process's number among those that have met, from 0."""
    from torch import distributed

    return distributed.get_rank() if processes() > 1 else 0


def own_share(rows: Sequence[int]) -> Sequence[int]:
    """Return those of some rows that are this process's to work on."""
    return rows[rank() :: processes()]


def summed(tensor: Tensor, device: torch.device) -> Tensor:
    """Return the sum of a tensor over all processes, where the tensor was.

    Args:
        tensor: This process's.
        device: Where the processes meet: that of the model.
    """
    from torch import distributed

    if processes() == 1:
        return tensor
    total = tensor.to(device, copy=True)
    distributed.all_reduce(total)
    return total.to(tensor.device)


def gathered(tensor: Tensor, device: torch.device) -> list[Tensor]:
    """Return every process's tensor, in the order of their numbers, where the tensor was.

    Args:
        tensor: This process's, of the same shape in all.
        device: Where the processes meet: that of the model.
    """
    import torch
    from torch import distributed

    if processes() == 1:
        return [tensor]
    parts = [torch.empty_like(tensor, device=device) for _ in range(processes())]
    distributed.all_gather(parts, tensor.contiguous().to(device))
    return [part.to(tensor.device) for part in parts]


def wait_for_all() -> None:
    """Wait until all processes of a distributed launch are here."""
    from torch import distributed

    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return
    if not distributed.is_initialized():
        distributed.init_process_group("gloo")  # nothing was trained that would have brought the processes together
    distributed.barrier()


@contextlib.contextmanager
def together(device: torch.device) -> Iterator[None]:
    """Let the processes of a distributed launch meet, if this is one of several and they have not, and part after the block."""
    import torch
    from torch import distributed

    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or distributed.is_initialized():
        yield
        return
    if device.type != "cpu":
        torch.accelerator.set_device_index(device.index or 0)
    distributed.init_process_group(distributed.get_default_backend_for_device(device))
    try:
        yield
        # One process's connections must not close while another still reads from them: that ends in an abort.
        distributed.barrier()
    finally:
        distributed.destroy_process_group()
