"""One process at a time in a run's folder (layer L3).

``.lock`` is held by the process that carries a recipe out, ``.busy`` by each of its commands: one whose parent was killed may
outlive it for a moment. The operating system gives a lock back when its process is gone, however that ended.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from clora_cli.errors import CloraError
from clora_cli.files import writing
from clora_cli.progress import Progress

__all__ = ["hold", "locked"]

_LOCK, _BUSY = ".lock", ".busy"
_PATIENCE = 10.0  # seconds: far more than the last command of a killed run takes to die
_PAUSE = 0.1


@contextlib.contextmanager
def locked(folders: Sequence[Path], progress: Progress) -> Iterator[None]:
    """Hold folders for this process, which are made if they are not there.

    Args:
        folders: The folders.
        progress: Who to tell where locks do not work.

    Raises:
        CloraError: If another process holds one of them.
    """
    with contextlib.ExitStack() as stack:
        for folder in folders:
            stack.enter_context(_locked(folder, progress))
        yield


def hold(folder: Path) -> None:
    """Mark a folder as busy for as long as this process lives."""
    with contextlib.suppress(OSError):  # a file system without locks, which the first process has told of
        fcntl.flock(os.open(folder / _BUSY, os.O_RDWR | os.O_CREAT, 0o644), fcntl.LOCK_SH | fcntl.LOCK_NB)


@contextlib.contextmanager
def _locked(folder: Path, progress: Progress) -> Iterator[None]:
    with writing(folder / _LOCK):
        folder.mkdir(parents=True, exist_ok=True)
        lock, busy = (os.open(folder / name, os.O_RDWR | os.O_CREAT, 0o644) for name in (_LOCK, _BUSY))
    try:
        try:
            _take(lock, folder, 0)
            _take(busy, folder, _PATIENCE)
        except OSError as error:
            progress.warn(
                f"{folder} cannot be locked ({error.strerror}): start no second run of this recipe beside this"
            )
        finally:
            os.close(busy)
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(lock)


def _take(descriptor: int, folder: Path, patience: float) -> None:
    deadline = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise CloraError(_refusal(folder)) from None
            time.sleep(_PAUSE)
        else:
            return


def _refusal(folder: Path) -> str:
    owner = (folder / _LOCK).read_text(encoding="utf-8").strip()
    who = f"process {owner}" if owner else "another process"
    return f"{folder} is being worked on by {who}; wait until it ends, or run another part with --only and --seed"
