"""Options about other processes that write in the same place (layer L4)."""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Iterator, Sequence
from typing import Annotated

import typer

from clora_cli.base.errors import BusyError, CloraError, OptionError
from clora_cli.cli._output import Terminal
from clora_cli.processes.locks import Patience, locked
from clora_cli.processes.spots import Spot

__all__ = ["BreakLockOption", "WaitOption", "command_line", "filled", "handed_on", "patience"]

_WAIT, _BREAK = "--wait", "--break-lock"

WaitOption = Annotated[
    float | None,
    typer.Option(
        _WAIT,
        metavar="[SECONDS]",
        help="Wait until no other process writes there, for so many seconds at most; without a number, for good.",
        show_default=False,
    ),
]
BreakLockOption = Annotated[
    bool,
    typer.Option(_BREAK, help="Take over from a process on another machine, which cannot be asked, if it is gone."),
]


def patience(wait: float | None, break_lock: bool) -> Patience:
    """Return what the two options say.

    Raises:
        OptionError: If the time is negative or no number.
    """
    seconds = wait or 0.0
    if math.isnan(seconds) or seconds < 0:
        raise OptionError(f"{_WAIT} {seconds:g}: give a number of seconds, 0 or more", code="option-out-of-range")
    return Patience(seconds, break_lock)


def filled(words: Sequence[str]) -> list[str]:
    """Return a command line in which ``--wait`` has a value, as Typer's options must."""
    following = [*words[1:], ""][: len(words)]
    return [
        f"{_WAIT}=inf" if word == _WAIT and not _is_number(after) else word
        for word, after in zip(words, following, strict=True)
    ]


def command_line() -> list[str]:
    """Return the command line as manifests record it: waiting for others changes no result."""
    words, after_wait = ["clora"], False
    for word in sys.argv[1:]:
        number, after_wait = after_wait and _is_number(word), word == _WAIT
        if not (number or word in {_WAIT, _BREAK} or word.startswith(f"{_WAIT}=")):
            words.append(word)
    return words


@contextlib.contextmanager
def handed_on(spots: Sequence[Spot], waiting: Patience, terminal: Terminal) -> Iterator[None]:
    """Hold spots for the processes that are started in a block, so that all of them find the same there.

    Raises:
        BusyError: If another process is there and stays.
    """
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locked(spots, patience=waiting, progress=terminal, hand_on=True))
        except BusyError:
            raise
        except CloraError:  # nothing can be written, and nothing need be if all is up to date: the processes will tell
            pass
        yield


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True
