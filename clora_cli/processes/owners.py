"""Processes by a name that others can check: alive, dead, or on another machine (layer L0).

Temporary files and locks carry such a name, so that whoever finds one knows whether somebody still works on it.
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

NEW = ".clora-new-"  # not finished, or not needed any more: once its owner is gone, whoever finds it removes it
OLD = ".clora-old-"  # moved aside to make room: once its owner is gone, whoever finds it moves it back
Standing = Literal["alive", "dead", "elsewhere"]
_NAME = re.compile(r"([0-9a-f]{8})-(\d{1,10})-(\d{1,20})")
_AFTER_STATE = 19  # of the fields of /proc/<pid>/stat that follow the state, the one that tells when it began


@dataclass(frozen=True)
class Owner:
    """A process.

    Attributes:
        machine: Eight hexadecimal digits: host, boot and process namespace. Equal ones share their process numbers.
        pid: Its number there.
        birth: When it began, in ticks since the boot; 0 where the system does not tell. Numbers are given out again.
    """

    machine: str
    pid: int
    birth: int

    def __str__(self) -> str:
        """Return the name, which ``parse_owner`` reads."""
        return f"{self.machine}-{self.pid}-{self.birth}"

    def standing(self) -> Standing:
        """Tell what is known of it from here; of another machine's process, or one before the last boot, nothing is."""
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
    """Return this process; a fork is another one."""
    return _own(os.getpid())


def owned_name(folder: Path, kind: str = NEW) -> Path:
    """Return a path in a folder that nothing has yet; its name tells the kind, and that it is this process's."""
    return folder / f"{kind}{myself()}-{secrets.token_hex(4)}"


def parse_owner(text: str) -> Owner | None:
    """Return the process that a name names; None if it is no such name."""
    found = _NAME.fullmatch(text)
    return Owner(found[1], int(found[2]), int(found[3])) if found else None


@functools.lru_cache(maxsize=1)
def _own(pid: int) -> Owner:
    return Owner(_machine(), pid, _birth(pid) or 0)


@functools.cache
def _machine() -> str:
    # Containers may have one host name and one kernel, and process numbers of their own.
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip())
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:8]


def _birth(pid: int) -> int | None:
    """Return when a process began; 0 if that cannot be told, None if it has ended and waits to be collected."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
        state, *fields = stat.rpartition(b")")[2].split()  # the name before it may hold anything
        return None if state in {b"Z", b"X"} else int(fields[_AFTER_STATE - 1])
    except (OSError, ValueError, IndexError):
        return 0
