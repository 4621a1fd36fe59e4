"""The processes of this launch: they compare what they found, hand out work, and end together (layer L0).

Messages go through the store of whatever launched them, which needs no group of PyTorch's, no device and no shared disk.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from clora_cli.base.errors import CloraError, OptionError
from clora_cli.processes.meeting.messages import PATIENCE, WORK, Meeting, tell
from clora_cli.processes.ranks import is_main_process

if TYPE_CHECKING:
    import torch

__all__ = [
    "LAUNCH_VARIABLES",
    "agree",
    "end_all",
    "fallen_out",
    "joined",
    "launched",
    "leave",
    "meet",
    "together",
    "wait_for_all",
]

# What a launcher sets for each of its processes; a command that one of them starts on its own must not see it.
LAUNCH_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_", "GROUP_", "ROLE_", "MASTER_", "TORCHELASTIC_")


def launched() -> bool:
    """Tell whether this is one of several processes of a launch."""
    size = os.environ.get("WORLD_SIZE", "1")
    return "RANK" in os.environ and size.isdecimal() and int(size) > 1


def meet() -> Meeting:
    """Return the processes of this launch, which is one process where nothing launched several.

    Raises:
        OptionError: If the environment does not say where they meet.
        CloraError: If the others do not come.
    """
    return _met() if launched() else Meeting()


def agree(facts: Callable[[], Mapping[str, Any]]) -> None:
    """Check, before anything is done, that all processes of this launch found what the first one found.

    Args:
        facts: Tells what decides what this process would do, for JSON; of files and rows their checksums.

    Raises:
        MismatchError: In all of them, if one found something else; it is named, and what differs.
        CloraError: If one has failed, or does not come.
    """
    if meet().size > 1:
        meet().agree(facts())


def wait_for_all() -> None:
    """Wait until all processes of this launch are here.

    Raises:
        CloraError: If one has failed, or does not come.
    """
    meet().collect(b"")
    meet().hand_out(b"")


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


def joined(texts: Sequence[str]) -> list[str]:
    """Return texts of which each process of this launch has some, and empty ones in place of the others'."""
    if meet().size == 1:
        return list(texts)
    told = meet().collect(json.dumps(list(texts)).encode(), WORK)
    whole = ["".join(parts) for parts in zip(*map(json.loads, told), strict=True)]
    found: list[str] = json.loads(meet().hand_out(json.dumps(whole).encode(), WORK))
    return found


def end_all(code: int, message: str = "", say: Callable[[str], None] = lambda text: None) -> int:
    """End all processes of this launch, with one line in all: the first one that fails says why.

    Args:
        code: This process's exit status.
        message: Why, in one line; empty if there is nothing to say.
        say: Tells it.

    Returns:
        The exit status, which is that of the first one that failed.
    """
    if not launched():
        if is_main_process():
            tell(message, say)
        return code
    try:
        return meet().fail(code, message, say)
    except CloraError:  # nobody can be reached
        tell(message, say)
        return code


def leave(code: int) -> int:
    """End this process as the first one ends, which is waited for.

    Args:
        code: This process's exit status; one that is not 0 ends all.

    Returns:
        The exit status of the launch.

    Raises:
        CloraError: If the first one has gone without a word.
    """
    if not launched():
        return code
    return end_all(code) if code else meet().leave()


def fallen_out(error: RuntimeError) -> bool:
    """Tell whether an error of this process comes of the end of another one of its launch."""
    if not launched():
        return False
    from torch.distributed import DistError

    return isinstance(error, DistError) or "gloo" in str(error) or meet().has_ended()


@functools.cache
def _met() -> Meeting:
    from datetime import timedelta

    from torch.distributed import DistError, PrefixStore, TCPStore  # type: ignore[attr-defined]

    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    try:
        address, port = os.environ.get("MASTER_ADDR", ""), int(os.environ.get("MASTER_PORT", ""))
    except ValueError:
        address, port = "", 0
    if not address:
        raise OptionError(
            "RANK and WORLD_SIZE are set, MASTER_ADDR and MASTER_PORT are not; start with torchrun, accelerate launch or "
            "--nproc, or unset the two",
            code="launch-variables-incomplete",
        )
    kept = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    patience = timedelta(seconds=PATIENCE)
    try:
        # On the port that PyTorch's own group of these processes uses too, hence of several tenants.
        store = TCPStore(address, port, None, kept and rank == 0, patience, wait_for_workers=False, multi_tenant=True)
    except (DistError, RuntimeError) as error:
        raise CloraError(
            f"rank {rank} cannot meet the others at {address}:{port}: {str(error).splitlines()[0]}",
            code="ranks-cannot-meet",
        ) from error
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return Meeting(PrefixStore(f"clora/{attempt}", store), rank, size, kept=kept)
