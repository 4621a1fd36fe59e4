"""Names for processes by which others can check whether they live: alive, dead, or on another machine (layer L0).

Temporary files and locks carry such a name, so that other processes can tell whether they are still in use.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import re
import secrets
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

__all__ = ["NEW", "OLD", "Owner", "Standing", "myself", "owned_name", "parse_owner"]

NEW = ".clora-new-"  # unfinished, or no longer needed: the next writer removes it once its owner is gone
OLD = ".clora-old-"  # moved aside to make room: the next writer moves it back once its owner is gone
Standing = Literal["alive", "dead", "elsewhere"]
_NAME = re.compile(r"([0-9a-f]{8})-(\d{1,10})-(\d{1,20})")
_AFTER_STATE = 19  # index of the start time among the fields of /proc/<pid>/stat after the state


@dataclass(frozen=True)
class Owner:
    """A process.

    Attributes:
        machine: Eight hexadecimal digits for host, boot and process namespace: where these are equal, so are process numbers.
        pid: Its number there.
        birth: When it began, in ticks since the boot; 0 if unknown. It tells processes apart that got the same number.
    """

    machine: str
    pid: int
    birth: int

    def __str__(self) -> str:
        """Return the name that ``parse_owner`` reads."""
        return f"{self.machine}-{self.pid}-{self.birth}"

    def standing(self) -> Standing:
        """Return whether it lives, as seen from here; unknown for a process of another machine or before the last boot."""
        if self.machine != _machine():
            return "elsewhere"
        try:
            os.kill(self.pid, 0)
        except (ProcessLookupError, OverflowError):
            return "dead"
        except PermissionError:  # another user's
            pass
        birth = _birth(self.pid)
        return "dead" if birth is None or (self.birth and birth and birth != self.birth) else "alive"


def myself() -> Owner:
    """Return this process; a fork is a process of its own."""
    return _own(os.getpid())


def owned_name(folder: Path, kind: str = NEW) -> Path:
    """Return an unused path in a folder, whose name carries a kind and this process."""
    return folder / f"{kind}{myself()}-{secrets.token_hex(4)}"


def parse_owner(text: str) -> Owner | None:
    """Return the process that a name carries; None if it carries none."""
    match = _NAME.fullmatch(text)
    return Owner(match[1], int(match[2]), int(match[3])) if match else None


@functools.lru_cache(maxsize=1)
def _own(pid: int) -> Owner:
    return Owner(_machine(), pid, _birth(pid) or 0)


@functools.cache
def _machine() -> str:
    # Containers may share a host name and a kernel, and still have process numbers of their own.
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip())
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:8]


def _birth(pid: int) -> int | None:
    """Return when a process began; 0 if unknown; None if it has ended and is only waiting to be reaped."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
        state, *fields = stat.rpartition(b")")[2].split()  # the command's name before the state may hold anything
        return None if state in {b"Z", b"X"} else int(fields[_AFTER_STATE - 1])
    except (OSError, ValueError, IndexError):
        return 0
