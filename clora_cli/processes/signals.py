"""SIGINT, SIGTERM and SIGHUP: each ends a command the way Ctrl-C does (layer L0).

They become ``KeyboardInterrupt``, so that temporary files are removed, and the exit status is 128 plus the signal's number.
Signals that were ignored when the process began stay ignored: ``nohup`` and background jobs of shells rely on it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

__all__ = ["ONE", "ending", "exit_code", "handled", "interruptible", "leave", "note", "received"]

_NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
ONE = 1.0  # seconds within which signals count as one: launchers pass on what a terminal already sent to all
_AGAIN = 0.01
_seen: list[tuple[int, float]] = []


def ending() -> list[signal.Signals]:
    """Return the signals that end this process: those of the three that it was not started to ignore."""
    return [number for number in _NUMBERS if signal.getsignal(number) is not signal.SIG_IGN]


def received() -> bool:
    """Tell whether one has come."""
    return bool(_seen)


def exit_code() -> int:
    """Return the exit status for the first signal that came; for Ctrl-C if none did."""
    return 128 + (_seen[0][0] if _seen else signal.SIGINT)


def note(number: int) -> bool:
    """Remember a signal; tell whether it is a new one, not the last one passed on again."""
    now = time.monotonic()
    fresh = not _seen or now - _seen[-1][1] > ONE
    if fresh:
        _seen.append((number, now))
    return fresh


def leave() -> None:
    """Let a signal end the process at once: while there is nothing to clean up, yet or any more."""
    for number in ending():
        signal.signal(number, _leave)


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Let a signal raise ``KeyboardInterrupt`` in the main thread during a block."""
    _seen.clear()
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    hook, sys.unraisablehook = sys.unraisablehook, _once_more
    try:
        with handled(_interrupt):
            yield
    finally:
        sys.unraisablehook = hook
        _forget()


@contextlib.contextmanager
def handled(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Let a handler take the signals that end this process, during a block in the main thread."""
    before = {number: signal.signal(number, handler) for number in ending()}
    try:
        yield
    finally:
        for number, former in before.items():
            signal.signal(number, former)


def _leave(number: int, frame: FrameType | None) -> None:
    os._exit(128 + number)


def _interrupt(number: int, frame: FrameType | None) -> None:
    if note(number):
        raise KeyboardInterrupt


def _forget() -> None:
    """Clear CPython's own note of an interrupt that ended a text given to ``exec``, such as a dataclass's methods.

    A program started by ``python -m`` otherwise ends as if by SIGINT, whatever its exit status; the next text clears it.
    """
    eval("None")  # noqa: S307 (a constant)


def _once_more(raised: Any) -> None:
    """Raise again an interrupt that came where exceptions are lost, such as in a finalizer; imports run many of them."""
    if not _seen or not issubclass(raised.exc_type, KeyboardInterrupt):
        sys.__unraisablehook__(raised)
        return
    signal.signal(signal.SIGALRM, _alarm)
    signal.setitimer(signal.ITIMER_REAL, _AGAIN)


def _alarm(number: int, frame: FrameType | None) -> None:
    while frame is not None:
        if (
            frame.f_code is _once_more.__code__
        ):  # on a busy machine this handler is still running, and what is raised in it is lost
            signal.setitimer(signal.ITIMER_REAL, _AGAIN)
            return
        frame = frame.f_back
    raise KeyboardInterrupt
