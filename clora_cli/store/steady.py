"""Read consistently what others may replace meanwhile, without a lock (layer L1).

A folder is always replaced as a whole, so the identity of one file in it identifies the adapter at its path. If that
identity is the same before and after reading, everything read belongs to one adapter.
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

__all__ = ["ANCHORS", "Identity", "identity", "mark", "steady", "unchanged"]

Identity = tuple[int, int, int, int]
_Read = TypeVar("_Read")
ANCHORS = ("adapter_config.json", "deltas.safetensors")
_TURNS = 1000
_PAUSE = 0.02  # seconds


def identity(path: Path) -> Identity | None:
    """Return the identity of the adapter folder at a path, which no other folder there will have; None if there is none."""
    return next((stamp for name in ANCHORS if (stamp := mark(path / name)) is not None), None)


def mark(file: Path) -> Identity | None:
    """Return the identity of the file at a path, which no other file there will have; None if there is none."""
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size


@contextlib.contextmanager
def unchanged(path: Path, seen: Identity | None) -> Iterator[None]:
    """Check that a block reads from the same adapter folder that was seen before.

    Raises:
        ReplacedError: If it was replaced or removed.
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
    """Read again until nothing changed during the reading.

    Args:
        read: Reads; may be called several times.
        look: Returns an identity that changes if anything is replaced.
        places: The folders in which folders may be replaced.
        listed: Whether the content of these folders is listed: then a folder that is missing for an instant matters.

    Raises:
        ReplacedError: If something keeps being replaced.
        CloraError: As ``read`` raises it when nothing changes.
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
    raise ReplacedError(f"{places[0]} keeps changing; try again when its writer is done", code="replaced-while-read")


def _under_way(places: Sequence[Path]) -> bool:
    """Tell whether a living process is just replacing something: has moved it aside."""
    for place in places:
        with contextlib.suppress(OSError):
            owners = [parse_owner(path.name[len(OLD) : -9]) for path in place.glob(f"{OLD}*")]
            if any(owner is not None and owner.standing() == "alive" for owner in owners):
                return True
    return False
