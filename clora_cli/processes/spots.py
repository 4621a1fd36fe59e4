"""Folders that one process at a time may write to, and which of their locks exclude each other (layer L0).

A lock on a folder excludes locks on everything in it, and a lock on something in it excludes one on the folder as a
whole.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["LOCK", "Spot", "inside", "is_lock", "place"]

LOCK = ".clora-lock"
_NAME = re.compile(r"\.clora-lock(-[0-9a-f]{16})?")


@dataclass(frozen=True)
class Spot:
    """A folder that one process at a time may write to.

    Attributes:
        what: The folder.
        lock: Its lock.
    """

    what: Path
    lock: Path

    def rivals(self) -> Iterator[Path]:
        """Yield the locks that exclude this one: of the same folder, of folders around it, of folders in it."""
        yield self.lock
        yield from (lock for lock in (inside(self.what).lock, place(self.what).lock) if lock != self.lock)
        for folder in self.what.parents:
            yield folder / LOCK
            yield place(folder).lock
        if self.lock.parent == self.what:
            with contextlib.suppress(OSError):
                inner = sorted(self.what.iterdir())
                yield from (path for path in inner if path != self.lock and is_lock(path.name))
                yield from (path / LOCK for path in inner if not path.name.startswith(".clora-"))


def inside(folder: Path) -> Spot:
    """Return the spot for work in a folder that stays; its lock lies in it."""
    folder = _real(folder)
    return Spot(folder, folder / LOCK)


def place(target: Path) -> Spot:
    """Return the spot for a folder that is written anew or replaced; its lock lies beside it."""
    target = _real(target)
    return Spot(target, target.parent / f"{LOCK}-{hashlib.sha256(os.fsencode(target.name)).hexdigest()[:16]}")


def is_lock(name: str) -> bool:
    """Tell whether a name is a lock's."""
    return _NAME.fullmatch(name) is not None


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))  # a link to itself, too
