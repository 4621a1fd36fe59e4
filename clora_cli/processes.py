"""The group of processes that PyTorch knows: who takes which rows, sums and copies over all of them (layer L0)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, TypeVar

from clora_cli.meeting import launched, wait_for_all

if TYPE_CHECKING:
    import torch
    from torch import Tensor

T = TypeVar("T")

__all__ = ["gathered", "own_share", "processes", "rank", "spread", "summed", "together"]


def processes() -> int:
    """Return how many processes have met."""
    from torch import distributed

    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def rank() -> int:
    """Return this process's number among those that have met, from 0."""
    from torch import distributed

    return distributed.get_rank() if processes() > 1 else 0


def own_share(rows: Sequence[T]) -> Sequence[T]:
    """Return those of some rows, or of anything else, that are this process's to work on."""
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


def spread(tensor: Tensor, owner: int, device: torch.device) -> Tensor:
    """Return one process's tensor in all of them, where the tensor was.

    Args:
        tensor: The owner's; of the same shape and type in the others.
        owner: Its number.
        device: Where the processes meet: that of the model.
    """
    from torch import distributed

    if processes() == 1:
        return tensor
    given = tensor.to(device, copy=True)
    distributed.broadcast(given, owner)
    return given.to(tensor.device)


@contextlib.contextmanager
def together(device: torch.device) -> Iterator[None]:
    """Let the processes of a launch meet, if this is one of several and they have not, and part after the block.

    Raises:
        CloraError: If one of them has failed, or does not come.
    """
    import torch
    from torch import distributed

    if not launched() or distributed.is_initialized():
        yield
        return
    wait_for_all()  # PyTorch would wait for one that has failed
    if device.type != "cpu":
        torch.accelerator.set_device_index(device.index or 0)
    distributed.init_process_group(distributed.get_default_backend_for_device(device))
    yield
    # One process's connections must not close while another still reads from them: that ends in an abort. After an error
    # they stay open until it has been told, or the others would tell of theirs.
    distributed.barrier()
    distributed.destroy_process_group()
