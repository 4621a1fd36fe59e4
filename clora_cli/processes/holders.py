"""A lock on disk and the record of who holds it (layer L0); ``locks`` is what the engine uses.

A lock is a hidden folder that appears by one rename, which fails if another lock is there: this also works on network file
systems without ``flock``. Its record may have been written by anybody: nothing in it is trusted or printed unescaped.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shlex
import shutil
import stat
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clora_cli.processes.owners import Owner, myself, owned_name, parse_owner

__all__ = [
    "RECORD",
    "STALE",
    "Holder",
    "adopt_lock",
    "lives",
    "put_up",
    "read_lock",
    "take_down",
    "take_over",
]

STALE = 300.0  # seconds without a touch after which another machine's lock counts as left behind
RECORD = "holder.json"
_LONGEST = 1 << 16
# Somebody was first, who may have left by now, or removed the folder, which was empty.
_OTHERS = {errno.EEXIST, errno.ENOTEMPTY, errno.ENOENT}
_PROGRAM = {"clora", "__main__", "-m", "_steps"}


@dataclass(frozen=True)
class Holder:
    """Who holds a lock.

    Attributes:
        token: Which lock this is: no other has it.
        owner: The process; None if the record does not say.
        host: Its machine's name.
        command: What it was started with.
        since: When it took the lock, as text for people.
    """

    token: str
    owner: Owner | None
    host: str
    command: str
    since: str

    @property
    def process(self) -> str:
        """The process, for a message."""
        return f"process {self.owner.pid}" if self.owner else "another process"

    @property
    def details(self) -> str:
        """What else is known about it, for a message."""
        return f"{self.command}, on {self.host} since {self.since}"


def read_lock(lock: Path) -> Holder | None:
    """Return who holds a lock; None if nobody does; an unknown holder if its record cannot be read."""
    try:
        descriptor = os.open(lock / RECORD, os.O_RDONLY | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            regular = stat.S_ISREG(os.fstat(descriptor).st_mode)
            record = json.loads(file.read(_LONGEST)) if regular else None
    except (FileNotFoundError, NotADirectoryError):
        record = None
        if not lock.is_dir():
            return None
    except (OSError, ValueError, RecursionError):
        record = None
    if not isinstance(record, dict):
        return Holder(f"?{lock.name}", None, "an unknown machine", "its record cannot be read", "some time")
    texts = {key: _printable(record.get(key)) for key in ("token", "host", "command", "since")}
    return Holder(owner=parse_owner(_printable(record.get("owner"))), **texts)


def lives(holder: Holder, lock: Path, *, force: bool = False) -> bool:
    """Tell whether a holder is still at work, as far as can be known.

    Args:
        holder: Who holds the lock.
        lock: The lock.
        force: Whether to count a process on another machine, which cannot be checked, as gone.
    """
    standing = holder.owner.standing() if holder.owner else "elsewhere"
    if standing != "elsewhere":
        return standing == "alive"
    return not force and _age(lock) < STALE


def put_up(lock: Path, token: str) -> bool:
    """Try to make a lock; tell whether this process now has it.

    Raises:
        OSError: If nothing can be written there.
    """
    draft = owned_name(lock.parent)
    try:
        _make(draft)
        _write(draft / RECORD, token)
        draft.rename(lock)
    except OSError as error:
        shutil.rmtree(draft, ignore_errors=True)
        if error.errno in _OTHERS:
            return False
        raise
    return True


def _make(draft: Path) -> None:
    for _ in range(3):  # the folder may vanish and come back, but hardly three times
        with contextlib.suppress(FileNotFoundError):
            draft.mkdir()
            return
        if not draft.parent.is_dir():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(draft.parent))
    raise PermissionError(errno.EPERM, "nothing can be made there", str(draft.parent))  # as in /proc


def adopt_lock(lock: Path, token: str) -> None:
    """Make this process the holder of a lock that was handed on to it, so that it may outlive the process that took it.

    Raises:
        OSError: If nothing can be written there.
    """
    draft = owned_name(lock)
    _write(draft, token)
    draft.replace(lock / RECORD)


def take_down(lock: Path, token: str) -> None:
    """Remove a lock if it is still that of this token."""
    holder = read_lock(lock)
    if holder is None or holder.token != token:
        return
    grave = owned_name(lock.parent)
    try:
        lock.rename(grave)
    except FileNotFoundError:
        return
    except OSError:  # perhaps a full disk without room for a new name
        grave = lock
    moved = read_lock(grave)
    if moved is None:
        return
    if moved.token not in {token, f"?{grave.name}"}:
        with contextlib.suppress(OSError):
            grave.rename(lock)  # it was taken over between the look and the rename
        return
    shutil.rmtree(grave, ignore_errors=True)


def take_over(lock: Path) -> None:
    """Remove a lock whose holder is gone; leave any other."""
    holder = read_lock(lock)
    if holder is not None and not lives(holder, lock):
        take_down(lock, holder.token)


def _age(lock: Path) -> float:
    """Return the seconds since a lock was touched, by the clock of its file system."""
    mark = owned_name(lock.parent)
    try:
        touched = max(path.stat().st_mtime for path in (lock, lock / RECORD) if path.exists())
        mark.touch()
        return mark.stat().st_mtime - touched
    except (OSError, ValueError):
        return 0.0
    finally:
        with contextlib.suppress(OSError):
            mark.unlink(missing_ok=True)


def _printable(value: Any) -> str:
    text = value if isinstance(value, str) else "?"
    return "".join(sign if sign.isprintable() else "?" for sign in text)[:300]


def _write(path: Path, token: str) -> None:
    program, *words = sys.argv or [""]
    command = shlex.join(["clora", *words]) if Path(program).stem in _PROGRAM else "a Python program"
    since = time.strftime("%Y-%m-%d %H:%M:%S %z")
    record = {"token": token, "owner": str(myself()), "host": os.uname().nodename, "command": command, "since": since}
    path.write_text(json.dumps(record), encoding="utf-8")
