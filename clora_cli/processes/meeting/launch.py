"""The processes of this launch: they compare their inputs, share out work, and end together (layer L0).

Messages go through the launcher's store, which needs no PyTorch process group, no device and no shared disk.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from clora_cli.base.errors import CloraError, OptionError
from clora_cli.base.intake import natural
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

# Variables that a launcher sets for its processes; a command that one of them starts on its own must not see them.
LAUNCH_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_", "GROUP_", "ROLE_", "MASTER_", "TORCHELASTIC_")


def launched() -> bool:
    """Tell whether this is one of several processes of a launch."""
    size = os.environ.get("WORLD_SIZE", "1")
    return "RANK" in os.environ and (natural(size) or 0) > 1


def meet() -> Meeting:
    """Return the processes of this launch: a single one unless a launcher started several.

    Raises:
        OptionError: If the environment does not say where they meet.
        CloraError: If the others do not come.
    """
    return _met() if launched() else Meeting()


def agree(facts: Callable[[], Mapping[str, Any]]) -> None:
    """Check, before any work, that all processes of this launch see the same inputs as the first one.

    Args:
        facts: Returns everything that decides what this process will do, as JSON values; checksums for files and rows.

    Raises:
        MismatchError: In all of them, if one differs; the message names it and the differences.
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
    """Join the processes of a launch for the length of a block, if there are several and they have not joined before.

    Raises:
        CloraError: If one of them has failed, or does not come.
    """
    import torch
    from torch import distributed

    if not launched() or distributed.is_initialized():
        yield
        return
    wait_for_all()  # PyTorch would wait even for a process that has failed
    if device.type != "cpu":
        torch.accelerator.set_device_index(device.index or 0)
    distributed.init_process_group(distributed.get_default_backend_for_device(device))
    yield
    # A process must not close its connections while another still reads from them: that ends in an abort. After an error
    # they stay open until it is reported, or the others would report errors of their own.
    distributed.barrier()
    distributed.destroy_process_group()


def joined(texts: Sequence[str]) -> list[str]:
    """Return the full list of texts, of which each process has some and empty strings for the others'; some may have the same."""
    if meet().size == 1:
        return list(texts)
    shares = meet().collect(json.dumps(list(texts)).encode(), WORK)
    whole = [max(parts, key=len) for parts in zip(*map(json.loads, shares), strict=True)]
    agreed: list[str] = json.loads(meet().hand_out(json.dumps(whole).encode(), WORK))
    return agreed


def end_all(code: int, message: str = "", say: Callable[[str], None] = lambda text: None) -> int:
    """End all processes of this launch, with a single line of output: the first one that fails says why.

    Args:
        code: This process's exit status.
        message: Why, in one line; empty if there is nothing to say.
        say: Prints it.

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
    """Wait for the first process to end, and end this one alike.

    Args:
        code: This process's exit status; any but 0 ends all processes.

    Returns:
        The exit status of the launch.

    Raises:
        CloraError: If the first one has ended without a message.
    """
    if not launched():
        return code
    return end_all(code) if code else meet().leave()


def fallen_out(error: RuntimeError) -> bool:
    """Tell whether an error of this process was caused by the end of another process of its launch."""
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
        # PyTorch's own process group uses the same port, hence the store is opened for several tenants.
        store = TCPStore(address, port, None, kept and rank == 0, patience, wait_for_workers=False, multi_tenant=True)
    except (DistError, RuntimeError) as error:
        raise CloraError(
            f"rank {rank} cannot meet the others at {address}:{port}: {str(error).splitlines()[0]}",
            code="ranks-cannot-meet",
        ) from error
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return Meeting(PrefixStore(f"clora/{attempt}", store), rank, size, kept=kept)
