"""Errors a user can cause, one class per exit code (layer L0).

CloraError                1  something went wrong while running
├── BusyError             1  another process is writing to the same place
├── OptionError           2  an option, a configuration key or a combination of them is wrong
│   └── UnknownNameError  2  a name is not on a closed list; the nearest names are suggested
├── ArtifactError         3  an adapter folder, package, model or scores file is missing or damaged
│   └── ReplacedError     3  it was replaced while it was read: read it again
├── DataError             3  a task or a data file is missing or malformed
├── MismatchError         4  artifacts that are whole but do not fit together
├── LimitError             5  a score or a forgetting limit was not met
└── InterruptedRunError 130  stopped by SIGINT, SIGTERM or SIGHUP; the run can be continued

Every message says what, where and what to do, in one line. Only ``clora_cli.cli.main`` turns them into an exit code. An error
also has a ``code``: a stable name for what is wrong, such as ``merge-weights-not-finite``, for tests and callers, so that its text
may be reworded. docs/errors.md lists the codes.
"""

from __future__ import annotations

import contextlib
import difflib
import struct
import traceback
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType, TracebackType

__all__ = [
    "ArtifactError",
    "BusyError",
    "CloraError",
    "DataError",
    "InterruptedRunError",
    "LimitError",
    "MismatchError",
    "OptionError",
    "ReplacedError",
    "UnknownNameError",
    "blaming",
    "did_you_mean",
    "mark",
    "translated",
]

_MARK = "__clora_plugin__"  # what a plug-in's module holds its origin under

# What libraries raise about models, adapters and data that they reject.
_OTHERS = (
    *(ArithmeticError, AssertionError, AttributeError, ImportError, LookupError, OSError, RuntimeError, TypeError),
    *(SyntaxError, ValueError, struct.error),
)
# Classes of theirs that derive from Exception alone and are known by their names: of Rust, Hugging Face's configurations and Pillow.
_NAMED = {"DecompressionBombError", "PanicException", "SafetensorError", "StrictDataclassError"}


class CloraError(Exception):
    """Base of all errors that end in one line on stderr; ``exit_code`` is the process's exit status.

    Args:
        text: What is wrong, where, and what to do.
        code: A stable name for the reason, in kebab-case, the same wherever it is raised.
    """

    exit_code = 1

    def __init__(self, text: str = "", *, code: str = "") -> None:
        super().__init__(text)
        self.code = code


class BusyError(CloraError):
    """Another process is writing to the same place."""


class OptionError(CloraError):
    """An option, a configuration key or a combination of them is wrong."""

    exit_code = 2


class UnknownNameError(OptionError):
    """A name that is not in a closed list of names.

    Args:
        what: The kind of thing named, in the singular, such as ``"method"``.
        name: The name that was given.
        known: The names that exist.
        hint: Further advice; empty for none.
    """

    def __init__(self, what: str, name: str, known: Iterable[str], hint: str = "") -> None:
        known = sorted(known)
        listed = f"{did_you_mean(name, known)}; known: {', '.join(known)}"
        super().__init__(f"unknown {what} '{name}'{listed}{f'; {hint}' if hint else ''}", code="unknown-name")


class ArtifactError(CloraError):
    """An adapter folder, package, model or scores file is missing or damaged."""

    exit_code = 3


class ReplacedError(ArtifactError):
    """An artifact was replaced while it was read, or after it was planned for; starting again helps."""


class DataError(CloraError):
    """A task or a data file is missing or malformed."""

    exit_code = 3


class MismatchError(CloraError):
    """Artifacts that are whole but do not fit together, such as adapters of two base models."""

    exit_code = 4


class LimitError(CloraError):
    """A required score or forgetting limit was not met."""

    exit_code = 5


class InterruptedRunError(CloraError):
    """A run was stopped by SIGINT, SIGTERM or SIGHUP; it can be continued."""

    exit_code = 130


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the nearest known name, or an empty string."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean '{close[0]}'?" if close else ""


def mark(module: ModuleType, origin: str) -> None:
    """Let errors that come out of a module's code name where it comes from: a plug-in's distribution or file."""
    vars(module)[_MARK] = origin


@contextlib.contextmanager
def blaming() -> Iterator[None]:
    """Turn what code of a marked module raises, or makes other code raise, into one line that names it.

    What runs out of memory is left as it is, and so is a broken pipe: neither is a fault of that code.

    Raises:
        CloraError: With the plug-in's origin, the function that was called, the line and the error.
    """
    try:
        yield
    except BaseException as error:
        kinds = (CloraError, MemoryError, BrokenPipeError)
        own = isinstance(error, (Exception, SystemExit)) and not isinstance(error, kinds)
        where = _blamed(error.__traceback__) if own and "out of memory" not in str(error) else ""
        if not where:
            raise
        said = " ".join(str(error).split())
        told = f"{type(error).__name__}{f': {said}' if said else ''}"
        raise CloraError(f"plug-in {where}: {told}; mend the plug-in", code="plugin-fails") from error


def _blamed(trace: TracebackType | None) -> str:
    """Return the plug-in, its function that was called first, and the line reached in its file; else nothing."""
    frames = [(frame, line) for frame, line in traceback.walk_tb(trace) if _MARK in frame.f_globals]
    if not frames:
        return ""
    (hook, _), (last, line) = frames[0], frames[-1]
    return (
        f"{hook.f_globals[_MARK]} fails in {hook.f_code.co_name}(), line {line} of {Path(last.f_code.co_filename).name}"
    )


@contextlib.contextmanager
def translated(what: str, error: type[CloraError] = CloraError, mend: str = "", *, code: str = "") -> Iterator[None]:
    """Turn a library's error about a user's model, adapter or data into an error of one line.

    Args:
        what: What failed and where, such as ``"base model m cannot be loaded"``.
        error: The class to raise.
        mend: What to do about it, if known.
        code: The error's code.

    Raises:
        CloraError: Of that class, with the first line of the library's message.
    """
    try:
        with blaming():
            yield
    except BaseException as other:
        # Tokenizers written in Rust raise Exception itself: their class says nothing else.
        bare = type(other) is Exception or not _NAMED.isdisjoint(kind.__name__ for kind in type(other).__mro__)
        if not isinstance(other, _OTHERS) and not bare:
            raise
        reason = _first_said(str(other).strip() or type(other).__name__)
        if not bare and not isinstance(other, (OSError, RuntimeError, ValueError)):
            reason = f"{type(other).__name__}: {reason}"
        raise error(
            f"{what}: {reason.rstrip('.') if mend else reason}{f'; {mend}' if mend else ''}", code=code
        ) from other


def _first_said(message: str) -> str:
    """Return the first line of a message, with the next one where the first announces it."""
    first, *rest = message.splitlines()
    return f"{first} {rest[0].strip()}" if first.endswith(":") and rest else first
