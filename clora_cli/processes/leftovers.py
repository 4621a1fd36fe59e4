"""Clean up after killed writers (layer L0): the next writer in a folder removes what no living process owns."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from pathlib import Path

from clora_cli.processes.holders import take_over
from clora_cli.processes.owners import NEW, OLD, owned_name, parse_owner
from clora_cli.processes.spots import is_lock

__all__ = ["sweep"]

_PREFIX = ".clora-"
_OWNED = re.compile(rf"(?:{re.escape(NEW)}|{re.escape(OLD)})(.+)-[0-9a-f]{{8}}")
_DAY = 86400.0  # seconds without a touch after which files whose owner cannot be checked count as left behind


def sweep(folder: Path, *, alone: bool = False) -> None:
    """Remove what killed writers left in a folder, and put back what one of them had moved aside.

    Args:
        folder: The folder that is about to be written to.
        alone: Whether no other process can be writing here, so that temporary files without an owner can go.
    """
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        paths = [Path(entry.path) for entry in entries if entry.name.startswith(_PREFIX)]
        for path in paths:
            if is_lock(path.name):
                take_over(path)
            elif _abandoned(path, alone):
                _remove(path)


def _abandoned(path: Path, alone: bool) -> bool:
    owned = _OWNED.fullmatch(path.name)
    owner = parse_owner(owned[1]) if owned else None
    standing = owner.standing() if owner else "elsewhere"
    if standing != "elsewhere":
        return standing == "dead"
    return (alone and owner is None) or _idle(path) > _DAY


def _idle(path: Path) -> float:
    """Return the seconds since anything was written at a path, by the clock of its file system."""
    mark = owned_name(path.parent)
    try:
        mark.touch()
        inside = path.rglob("*") if path.is_dir() and not path.is_symlink() else ()
        latest: float = max(entry.lstat().st_mtime for entry in (path, *inside))
        return mark.stat().st_mtime - latest
    finally:
        mark.unlink(missing_ok=True)


def _remove(path: Path) -> None:
    if not path.is_dir() or path.is_symlink():
        path.unlink(missing_ok=True)
        return
    if path.name.startswith(OLD) or "-old-" in path.name:  # the second is 0.1.0's name for it
        for inner in path.iterdir():
            if not (path.parent / inner.name).exists():
                inner.rename(path.parent / inner.name)
    shutil.rmtree(path, ignore_errors=True)
