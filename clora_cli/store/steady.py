"""Reading what others may replace meanwhile: all of it as it was at one moment, without a lock (layer L1).

A folder is replaced as a whole, so that a file of it tells one adapter from the next at its path. What was read between
two looks at that file which show the same is of one adapter.
"""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from clora_cli.base.errors import ArtifactError, CloraError, ReplacedError
from clora_cli.processes.owners import OLD, parse_owner

__all__ = ["Identity", "identity", "mark", "steady", "unchanged"]

Identity = tuple[int, int, int, int]
_Read = TypeVar("_Read")
_ANCHORS = ("adapter_config.json", "deltas.safetensors")
_TURNS = 1000
_PAUSE = 0.02  # seconds


def identity(path: Path) -> Identity | None:
    """Return what tells an adapter folder from any other that is or will be at its path; None if there is none."""
    return next((found for name in _ANCHORS if (found := mark(path / name)) is not None), None)


def mark(file: Path) -> Identity | None:
    """Return what tells a file from any other that is or will be at its path; None if there is none."""
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size


@contextlib.contextmanager
def unchanged(path: Path, seen: Identity | None) -> Iterator[None]:
    """Check that what a block reads in an adapter folder is of the one that was seen there.

    Raises:
        ReplacedError: If another has taken its place, or it is gone.
    """
    cause: Exception | None = None
    try:
        yield
    except (CloraError, OSError) as error:
        cause = error
        raise
    finally:
        if seen is not None and identity(path) != seen:
            raise ReplacedError(
                f"adapter {path} was replaced or removed while it was read; try again", code="replaced-while-read"
            ) from cause


def steady(
    read: Callable[[], _Read], look: Callable[[], object], places: Sequence[Path], *, listed: bool = False
) -> _Read:
    """Read until nothing changed meanwhile.

    Args:
        read: Reads; may be called several times.
        look: Returns what would differ if something were replaced.
        places: The folders in which folders may be replaced.
        listed: Whether what is read is what is in them: then a folder that is not there for an instant matters.

    Raises:
        ReplacedError: If something is replaced all the time.
        CloraError: What ``read`` raises on what does not change.
    """
    for _ in range(_TURNS):
        before = look()
        try:
            found = read()
        except (CloraError, OSError) as error:
            if look() == before and not _under_way(places):
                if isinstance(error, OSError):
                    where = error.filename or places[0]
                    raise ArtifactError(
                        f"{where} cannot be read: {error.strerror}; make it readable", code="path-unreadable"
                    ) from error
                raise
        else:
            if look() == before and not (listed and _under_way(places)):
                return found
        time.sleep(random.uniform(0, _PAUSE))
    raise ReplacedError(
        f"{places[0]} changes all the time; try again when its writer is done", code="replaced-while-read"
    )


def _under_way(places: Sequence[Path]) -> bool:
    """Tell whether a living process has just moved something aside, to put another in its place."""
    for place in places:
        with contextlib.suppress(OSError):
            owners = [parse_owner(path.name[len(OLD) : -9]) for path in place.glob(f"{OLD}*")]
            if any(owner is not None and owner.standing() == "alive" for owner in owners):
                return True
    return False
