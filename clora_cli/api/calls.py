"""What all functions of the Python API have in common (layer L4): values as written, command lines, progress by callback."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from clora_cli.base.errors import OptionError
from clora_cli.base.options import Declared, Options, declared
from clora_cli.base.progress import Advance, Progress, Silent, advance_line
from clora_cli.options.shared_options import ModelOptions
from clora_cli.processes.locks import Patience
from clora_cli.recipes.settings import spelled

__all__ = [
    "Event",
    "Listener",
    "Paths",
    "check_alone",
    "heard",
    "paths_of",
    "patient",
    "settled",
    "some_paths",
    "words",
]

Paths = str | Path | Iterable[str | Path]
Chosen = TypeVar("Chosen", bound=Options)


@dataclass(frozen=True)
class Event:
    """Something that a long call tells while it works; as a text it is the line that the command prints.

    Attributes:
        kind: ``note``, ``warning`` or ``progress``.
        text: The note or warning; of progress what is being done, such as ``train``.
        done: Of progress, the steps done so far.
        total: Of progress, all steps; 0 otherwise.
        status: Of progress, what else there is to say, such as the loss.
    """

    kind: Literal["note", "warning", "progress"]
    text: str
    done: int = 0
    total: int = 0
    status: str = ""

    def __str__(self) -> str:
        """Return the line."""
        if self.kind == "progress":
            return advance_line(self.text, self.done, self.total, self.status)
        return f"warning: {self.text}" if self.kind == "warning" else self.text


Listener = Callable[[Event], None]


class _Heard:
    """Passes on to a callback what an engine reports."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener

    def note(self, text: str) -> None:
        """Pass on a note."""
        self._listener(Event("note", text))

    def warn(self, text: str) -> None:
        """Pass on a warning."""
        self._listener(Event("warning", text))

    @contextlib.contextmanager
    def track(self, title: str, total: int) -> Iterator[Advance]:
        """Pass on each advance."""
        so_far = 0

        def advance(done: int, status: str) -> None:
            nonlocal so_far
            so_far += done
            self._listener(Event("progress", title, so_far, total, status))

        yield advance


def heard(listener: Listener | None) -> Progress:
    """Return what an engine reports to: a callback, or nobody."""
    return Silent() if listener is None else _Heard(listener)


def patient(wait: float, break_lock: bool) -> Patience:
    """Return what to do if another process writes in the same place.

    Raises:
        OptionError: If the time is negative or no number.
    """
    if not wait >= 0:
        raise OptionError(f"--wait {wait:g}: give a number of seconds, 0 or more", code="option-out-of-range")
    return Patience(wait, break_lock)


def paths_of(paths: Paths) -> list[Path]:
    """Return one path or several as a list."""
    return [Path(paths)] if isinstance(paths, (str, Path)) else [Path(path) for path in paths]


def some_paths(paths: Paths, what: str) -> list[Path]:
    """Return one path or several as a list.

    Raises:
        OptionError: If there is none.
    """
    if found := paths_of(paths):
        return found
    raise OptionError(f"no path is given; name {what}", code="option-missing")


def check_alone(options: ModelOptions) -> None:
    """Refuse a number of processes: a call is part of the process, or of the launch, that it is made in.

    Raises:
        OptionError: If several are asked for outside a launch.
    """
    if options.nproc != 1 and "RANK" not in os.environ:
        raise OptionError(
            f"nproc={options.nproc}: a call from Python is one process; start the script with torchrun or accelerate launch, "
            "or use the command",
            code="call-is-one-process",
        )


def settled(options: Chosen) -> Chosen:
    """Return options with values as the command line would have them: paths, tuples, plug-in files registered.

    Raises:
        OptionError: As the command line, if a text says nothing that the option can be.
    """
    known = declared(type(options))
    values = {name: _settled(each, getattr(options, name)) for name, each in known.items()}
    changes = {name: value for name, value in values.items() if value is not getattr(options, name)}
    return dataclasses.replace(options, **changes) if changes else options


def _settled(option: Declared, value: Any) -> Any:
    if option.kind == "texts":
        value = (value,) if isinstance(value, (str, Path)) else value if isinstance(value, tuple) else tuple(value)
        return value if option.parse is None else option.parse(value)
    if isinstance(value, str) and option.parse is not None:
        return option.parse(value)
    if isinstance(value, (str, Path)) and option.kind in ("path", "text"):
        return Path(value) if option.kind == "path" else str(value)
    if option.kind == "number" and isinstance(value, int):
        return float(value)
    if option.kind == "numbers":
        return value if isinstance(value, tuple) else tuple(map(float, value))
    return {key: spelled(entry) for key, entry in value.items()} if option.kind == "pairs" else value


def words(command: str, *arguments: object, options: Options | None = None, **switches: bool) -> list[str]:
    """Return the command line that does what a call does, as artifacts record it.

    Args:
        command: The command's name.
        arguments: What stands before its options.
        options: The command's options; those that have their default are left out.
        switches: Further options without a value.
    """
    line = ["clora", command, *map(str, arguments)]
    for name, each in declared(type(options)).items() if options else ():
        value = getattr(options, name)
        if value != each.default:
            line += _words(each, value)
    return line + [f"--{name.replace('_', '-')}" for name, given in switches.items() if given]


def _words(option: Declared, value: Any) -> list[str]:
    if option.kind == "flag":
        return [option.flag]
    if option.kind == "numbers":
        return [option.flag, ",".join(map(spelled, value))]
    if isinstance(value, Mapping):
        return [word for key, entry in value.items() for word in (option.flag, f"{key}={entry}")]
    several: Sequence[Any] = value if isinstance(value, tuple) else (value,)
    return [word for each in several for word in (option.flag, spelled(each))]
