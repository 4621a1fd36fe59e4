"""Results on stdout, everything else on stderr (layer L4): the one place that writes to either.

Whatever is shown may hold names and data of others; nothing in it acts on a terminal.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping
from enum import Enum
from typing import TYPE_CHECKING, Any, TextIO

from clora_cli.base.errors import CloraError
from clora_cli.base.legible import legible, legible_json
from clora_cli.base.progress import Advance, advance_line
from clora_cli.processes.ranks import is_main_process

if TYPE_CHECKING:
    from rich.console import Console

__all__ = [
    "DENSE",
    "SECONDS_BETWEEN_LINES",
    "Form",
    "Terminal",
    "emit",
    "give_up",
    "json_line",
    "results_alone",
    "say",
    "tell",
]

DENSE = "_CLORA_DENSE"  # in the environment: more lines of the first minutes, as a curve of losses needs them
SECONDS_BETWEEN_LINES = 20.0  # a log of hours stays readable
_FEWEST, _SHARE = 0.5, 50  # seconds between two lines, and the share of the time so far, where they are dense


class Form(str, Enum):
    """How a command prints its result."""

    TEXT = "text"
    JSON = "json"
    QUIET = "quiet"


def emit(form: Form, *, text: str, data: Mapping[str, Any], brief: str) -> None:
    """Print a command's result on stdout.

    Args:
        form: Which of the three to print.
        text: For people.
        data: For programs: one JSON object on one line; it names its ``schema``.
        brief: For shell variables: the path or the number alone.
    """
    shown = json_line(data) if form is Form.JSON else {Form.TEXT: text, Form.QUIET: brief}[form]
    say(shown.rstrip("\n"))


def say(text: str) -> None:
    """Write a text and the end of its last line to stdout.

    Raises:
        CloraError: If it cannot be written; what the command wrote elsewhere stays.
        BrokenPipeError: If its reader left, as `head` does.
    """
    try:
        sys.stdout.write(_printable(text, sys.stdout))
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        give_up(sys.stdout)
        why = error.strerror or error
        raise CloraError(
            f"cannot write standard output: {why}; free space, or send it elsewhere", code="cannot-write"
        ) from error


def tell(text: str) -> None:
    """Write a text and the end of its last line to stderr; where that cannot be, the exit status alone tells."""
    try:
        sys.stderr.write(_printable(text, sys.stderr))
    except OSError:  # a log on a full disk, or whose reader left, ends no training
        give_up(sys.stderr)


@contextlib.contextmanager
def results_alone() -> Iterator[None]:
    """Send what libraries print in a block to stderr: DeepSpeed, where it is installed, prints beside the results."""
    with contextlib.redirect_stdout(sys.stderr if is_main_process() else sys.stdout):
        yield


def give_up(stream: TextIO) -> None:
    """Let what is written to a stream that failed go nowhere; Python would complain once more when it closes it."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, stream.fileno())
    os.close(nothing)


def json_line(data: Mapping[str, Any]) -> str:
    """Return one line of JSON; in ASCII where stdout has no Unicode, or the text is half a surrogate pair."""
    text = legible_json(json.dumps(data, ensure_ascii=False, default=str))
    return text if _encodable(text, sys.stdout) == text else json.dumps(data, default=str)


def _printable(text: str, stream: TextIO) -> str:
    return _encodable(legible(text, lines=True), stream) + "\n"


def _encodable(text: str, stream: TextIO) -> str:
    encoding = stream.encoding or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


class Terminal:
    """Notes and progress on stderr: bars on a terminal, one line per piece of work elsewhere, nothing when quiet."""

    def __init__(self, form: Form) -> None:
        self._quiet = form is Form.QUIET or not is_main_process()

    def note(self, text: str) -> None:
        """Print a note."""
        if not self._quiet:
            tell(text)

    def warn(self, text: str) -> None:
        """Print a warning, also when quiet: it is something to act on."""
        if is_main_process():
            tell(f"warning: {legible(text)}")

    @contextlib.contextmanager
    def track(self, title: str, total: int) -> Iterator[Advance]:
        """Show the advance of one piece of work."""
        title = legible(title)
        if self._quiet:
            yield lambda done, status: None
        elif sys.stderr.isatty():
            yield from _bar(_console(), title, total)
        else:
            yield from _lines(title, total)


def _console() -> Console:
    from rich.console import Console

    return Console(stderr=True, markup=False, highlight=False, emoji=False)


def _bar(console: Console, title: str, total: int) -> Iterator[Advance]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}", markup=False),  # brackets in a name are no style
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[status]}", markup=False),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(title, total=total, status="")
        yield lambda done, status: progress.update(task, advance=done, status=legible(status))


def _lines(title: str, total: int) -> Iterator[Advance]:
    done_so_far, began, dense = 0, time.monotonic(), DENSE in os.environ
    last_line = began

    def advance(done: int, status: str) -> None:
        nonlocal done_so_far, last_line
        done_so_far += done
        now = time.monotonic()
        wanted = max(_FEWEST, (now - began) / _SHARE) if dense else SECONDS_BETWEEN_LINES
        if done_so_far >= total or now - last_line > min(wanted, SECONDS_BETWEEN_LINES):
            last_line = now
            tell(advance_line(title, done_so_far, total, legible(status)))

    yield advance
