"""Putting a finished file or folder in its place so that it is there after a power cut (layer L0).

New content is written to the disk before its name, and the name before anything else happens. So a name never stands for
half a file, whenever the power goes.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

from clora_cli.processes.owners import OLD, owned_name

__all__ = ["make_folder", "persist", "publish"]

_UNKNOWN = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}  # the file system does not support this
_HERE, _EXCHANGE = -100, 2  # Linux: AT_FDCWD, RENAME_EXCHANGE
_SWAP = 2  # macOS: RENAME_SWAP


def persist(path: Path) -> None:
    """Write a file, or a folder with everything in it, to the disk.

    Raises:
        OSError: If it cannot be written: a full or broken disk may show only now.
    """
    if path.is_dir():
        for inner in sorted(path.iterdir()):
            persist(inner)
    if not path.is_symlink():
        _sync(path)


def make_folder(folder: Path) -> None:
    """Make a folder and its missing parents, and write them to the disk.

    Raises:
        OSError: If one cannot be made.
    """
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in missing:
        _sync(path.parent)


def publish(new: Path, target: Path) -> None:
    """Give a finished file or folder its name; what had the name before is then called ``new``.

    Readers see the old or the new one where the system can exchange two names; elsewhere a folder is missing for an
    instant.

    Args:
        new: A file or folder beside the target, already on the disk.
        target: Its name; no symbolic link.

    Raises:
        OSError: If that fails; what was there is back in its place.
    """
    publish_one = _publish_folder if new.is_dir() else _publish_file
    publish_one(new, target)


def _publish_file(new: Path, target: Path) -> None:
    former = owned_name(target.parent) if target.exists() else None
    try:
        if former is not None:
            with contextlib.suppress(OSError):  # a file system without hard links
                former.hardlink_to(target)
        new.replace(target)
        try:
            _sync(target.parent)
        except OSError:
            with contextlib.suppress(OSError):
                target.unlink() if former is None else former.replace(target)
            raise
    finally:
        if former is not None:
            former.unlink(missing_ok=True)


def _publish_folder(new: Path, target: Path) -> None:
    replaced = target.exists()
    give = _swap if replaced else Path.rename
    give(new, target)
    try:
        _sync(target.parent)
    except OSError:
        with contextlib.suppress(OSError):
            _swap(new, target) if replaced else target.rename(new)
        raise


def _swap(new: Path, target: Path) -> None:
    """Exchange the names of two folders."""
    if _exchange(new, target):
        return
    # Without such a system call, the old folder is moved aside first, and back if the other rename fails.
    aside = owned_name(target.parent, OLD)
    aside.mkdir()
    try:
        target.rename(aside / target.name)
        try:
            new.rename(target)
        except BaseException:
            (aside / target.name).rename(target)
            raise
        (aside / target.name).rename(new)
    finally:
        aside.rmdir()


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two names in one step; False where the system or the file system cannot."""
    call = _exchanging()
    if call is None:
        return False
    if call(os.fsencode(one), os.fsencode(other)) == 0:
        return True
    number = ctypes.get_errno()
    if number in _UNKNOWN:
        return False
    raise OSError(number, os.strerror(number), str(other))


@cache
def _exchanging() -> Callable[[bytes, bytes], int] | None:
    library = ctypes.CDLL(None, use_errno=True)
    if sys.platform == "linux" and hasattr(library, "renameat2"):
        return lambda one, other: int(library.renameat2(_HERE, one, _HERE, other, _EXCHANGE))
    if sys.platform == "darwin" and hasattr(library, "renamex_np"):
        return lambda one, other: int(library.renamex_np(one, other, _SWAP))
    return None


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _UNKNOWN:  # some file systems sync no folders
            raise
    finally:
        os.close(descriptor)
