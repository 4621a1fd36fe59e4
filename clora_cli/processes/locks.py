"""One writer at a time: taking, keeping and giving back the locks of spots (layer L0).

A lock is that of a thread; its process touches it again and again, so that other machines see that somebody is there.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from clora_cli.base.errors import BusyError, CloraError
from clora_cli.base.progress import Progress, Silent
from clora_cli.processes.holders import RECORD, Holder, adopt_lock, lives, put_up, read_lock, take_down
from clora_cli.processes.leftovers import sweep
from clora_cli.processes.spots import LOCK, Spot

__all__ = ["NO_PATIENCE", "Patience", "confirm", "locked"]

_BEAT = 15.0  # seconds between two touches
_GRACE = 0.5  # seconds for one who came second to see it and leave
_PAUSES = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
_HANDED = "_CLORA_LOCKS"


@dataclass(frozen=True)
class Patience:
    """What to do about a lock that another process holds.

    Attributes:
        seconds: How long to wait for it, at least 0; infinity waits for good.
        force: Whether to take it from a process on another machine, which cannot be asked.
    """

    seconds: float = 0.0
    force: bool = False


NO_PATIENCE = Patience()


@dataclass(frozen=True)
class _Held:
    """A lock of this process, until it is given back."""

    spot: Spot
    token: str
    pid: int
    thread: int

    @property
    def own(self) -> bool:
        """Whether it is the calling thread's: another one, or a fork, is another writer."""
        return (self.pid, self.thread) == (os.getpid(), threading.get_ident())


_held: dict[Path, _Held] = {}
_beating: set[int] = set()  # processes, of which a fork is another one


@contextlib.contextmanager
def locked(
    spots: Sequence[Spot],
    *,
    patience: Patience = NO_PATIENCE,
    progress: Progress | None = None,
    advice: str = "wait for it with --wait",
    grace: float = _GRACE,
    hand_on: bool = False,
) -> Iterator[None]:
    """Keep other writers off for the length of a block; what this thread holds already is nothing new.

    Args:
        spots: What to hold; their folders are made, and removed again if they stay empty.
        patience: What to do if another process is there.
        progress: Who to tell of a wait.
        advice: What the error says to do.
        grace: Seconds for which others in a folder may still be there at most, as the last command of a killed run is.
        hand_on: Let processes that are started meanwhile work as if they held it.

    Raises:
        BusyError: If another process is there and stays.
        CloraError: If a lock cannot be written.
    """
    with contextlib.ExitStack() as stack:
        for spot in sorted(set(spots), key=lambda one: one.lock):  # everyone in the same order
            held = _held.get(spot.lock)
            if held is None or not held.own:
                stack.enter_context(_acquired(spot, _Manner(patience, progress or Silent(), advice, grace)))
        if hand_on:
            stack.enter_context(_handing_on())
        yield


def confirm() -> None:
    """Check, before something is put in its place, that this process still holds what it took.

    Raises:
        BusyError: If another process has taken a lock over, as it may from a machine that was stopped for long.
        OSError: If a lock that somebody removed cannot be made again.
    """
    for held in [one for one in _held.values() if one.own]:
        holder = read_lock(held.spot.lock)
        if holder is None:  # removed by hand, perhaps with the folder
            _make(held.spot.lock.parent)
            put_up(held.spot.lock, held.token)
            holder = read_lock(held.spot.lock)
        if holder is not None and holder.token != held.token:
            raise BusyError(
                f"{_shown(held.spot.what)} was taken over by {holder.process} ({holder.told}); "
                "nothing more is written there",
                code="lock-taken-over",
            )


@contextlib.contextmanager
def _handing_on() -> Iterator[None]:
    before = os.environ.get(_HANDED, "")
    os.environ[_HANDED] = ",".join(sorted(_tokens()))
    try:
        yield
    finally:
        os.environ[_HANDED] = before


@dataclass(frozen=True)
class _Manner:
    patience: Patience
    progress: Progress
    advice: str
    grace: float


_Rival = tuple[Path, Holder]


@contextlib.contextmanager
def _acquired(spot: Spot, manner: _Manner) -> Iterator[None]:
    made: list[Path] = []
    try:
        token = _adopted(spot) or _taken(spot, manner, made)
        _held[spot.lock] = _Held(spot, token, os.getpid(), threading.get_ident())
        _keep_beating()
        sweep(spot.lock.parent)
        try:
            yield
        finally:
            if _held[spot.lock].own:
                del _held[spot.lock]
                take_down(spot.lock, token)
    finally:
        for folder in made:
            with contextlib.suppress(OSError):
                folder.rmdir()  # if it stayed empty


def _adopted(spot: Spot) -> str:
    """Take up a lock that was handed on to this process; return its token, or an empty string if it was not."""
    found = read_lock(spot.lock)
    if found is None or found.token not in _handed():
        return ""
    with _failing(spot):
        adopt_lock(spot.lock, found.token)
    return found.token


def _taken(spot: Spot, manner: _Manner, made: list[Path]) -> str:
    """Take a lock as soon as nobody is in the way; return its token."""
    began, turn, token = time.monotonic(), 0, secrets.token_hex(16)
    while (other := _try(spot, token, manner, made)) is not None:
        left = manner.patience.seconds - (time.monotonic() - began)
        if left <= 0:
            raise BusyError(_refusal(spot, other, manner.advice), code="another-process-writes")
        if not turn:
            manner.progress.note(f"waiting for {_shown(spot.what)}: {other[1].process} ({other[1].told})")
        time.sleep(min(_PAUSES[min(turn, len(_PAUSES) - 1)], left))
        turn += 1
    return token


def _try(spot: Spot, token: str, manner: _Manner, made: list[Path]) -> _Rival | None:
    """Take a lock, or tell who is in the way."""
    with _failing(spot):
        if other := _staying(spot, "", manner.patience, manner.grace):
            return other
        made += _make(spot.lock.parent)
        while not put_up(spot.lock, token):
            if other := _staying(spot, "", manner.patience, 0.0):
                return other
            made += _make(spot.lock.parent)
        # Two that came at once see each other here: one in a folder leaves, one that wants it all gives it time to.
        if other := _staying(spot, token, manner.patience, _GRACE):
            take_down(spot.lock, token)
            return other
    return None


def _staying(spot: Spot, token: str, patience: Patience, seconds: float) -> _Rival | None:
    """Return who is in the way; of those in the folder itself who still is after some seconds."""
    until = time.monotonic() + seconds
    while (other := _rival(spot, token, patience)) is not None:
        lock = other[0]
        if lock == spot.lock or spot.what not in lock.parents or time.monotonic() >= until:
            return other
        time.sleep(_PAUSES[0])
    return None


def _rival(spot: Spot, token: str, patience: Patience) -> _Rival | None:
    """Return a lock that excludes this one, and its holder; remove those whose holders are gone."""
    own = {token} | _tokens()
    for lock in spot.rivals():
        holder = read_lock(lock)
        if holder is None or holder.token in own:
            continue
        if lives(holder, lock, force=patience.force):
            return lock, holder
        take_down(lock, holder.token)
    return None


def _tokens() -> set[str]:
    return {held.token for held in _held.values() if held.own} | _handed()


def _handed() -> set[str]:
    return set(filter(None, os.environ.get(_HANDED, "").split(",")))


def _keep_beating() -> None:
    if os.getpid() not in _beating:
        _beating.add(os.getpid())
        threading.Thread(target=_beat, name="clora locks", daemon=True).start()


def _beat() -> None:
    while True:
        time.sleep(_BEAT)
        for held in list(_held.values()):
            with contextlib.suppress(OSError):
                os.utime(held.spot.lock / RECORD)


def _make(folder: Path) -> list[Path]:
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    return missing


@contextlib.contextmanager
def _failing(spot: Spot) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise CloraError(
            f"cannot write {_shown(spot.what)}: {reason}; nothing was changed, free space or choose another place",
            code="cannot-write",
        ) from error


def _refusal(spot: Spot, other: _Rival, advice: str) -> str:
    lock, holder = other
    if holder.owner is None or holder.owner.standing() == "elsewhere":
        advice += ", or pass --break-lock if it is gone"
    where = lock.parent if lock.name == LOCK else spot.what
    return f"{_shown(where)} is being worked on by {holder.process}; {advice} ({holder.told})"


def _shown(path: Path) -> str:
    # As the user sees it, where it lies below the working directory.
    with contextlib.suppress(OSError, ValueError):
        return str(path.relative_to(Path.cwd()))
    return str(path)
