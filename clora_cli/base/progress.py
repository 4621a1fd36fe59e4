"""Progress messages (layer L0): the engine reports, only the command line prints."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from typing import Protocol

__all__ = ["ADVANCE_LINE", "Advance", "Progress", "Silent", "advance_line"]

Advance = Callable[[int, str], None]
# What ``advance_line`` writes.
ADVANCE_LINE = re.compile(r"(?P<title>.+): (?P<done>\d{1,15})/(?P<total>\d{1,15})(?:  (?P<status>.*))?")


def advance_line(title: str, done: int, total: int, status: str) -> str:
    """Return the line that tells how far long work is, such as ``train dbpedia: 8/20  loss 0.78``."""
    return f"{title}: {done}/{total}{'  ' if status else ''}{status}"


class Progress(Protocol):
    """A listener for notes, warnings and the advance of long work."""

    def note(self, text: str) -> None:
        """Report a fact worth a line."""

    def warn(self, text: str) -> None:
        """Report something that the user should act on."""

    def track(self, title: str, total: int) -> contextlib.AbstractContextManager[Advance]:
        """Open a progress bar; yield a function that takes the number of steps just done and a short status."""


class Silent:
    """Reports nothing; the default of every engine function."""

    def note(self, text: str) -> None:
        """Ignore the note."""

    def warn(self, text: str) -> None:
        """Ignore the warning."""

    @contextlib.contextmanager
    def track(self, title: str, total: int) -> Iterator[Advance]:
        """Yield a function that does nothing."""
        yield lambda done, status: None
