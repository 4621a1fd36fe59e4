"""Reading from disk (layer L0): regular files of a bounded size, and JSON that every reader understands alike."""

from __future__ import annotations

import errno
import io
import json
import math
import os
import stat
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from clora_cli.base.legible import legible

__all__ = [
    "LONGEST_TEXT",
    "each_key_once",
    "named_path",
    "natural",
    "open_regular",
    "parse_json",
    "read_bytes",
    "read_text",
    "real_path",
    "reason",
]

LONGEST_TEXT = 1 << 28  # bytes of a text file: scores of a million rows take a tenth
_DEEPEST = 64  # levels of JSON: the deepest record has six
_NESTED = (dict, list)
_DIGITS = 18
_LONGEST = 1 << 63  # whole numbers below it fit everywhere


def reason(error: Exception) -> str:
    """Return why a file could not be read, in one line without its name."""
    return legible(" ".join(str(getattr(error, "strerror", None) or error).split()))


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file for reading.

    Raises:
        OSError: If it is a pipe, a device or a folder, or cannot be opened.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "no regular file", str(path))
    return io.BufferedReader(io.FileIO(descriptor))


def named_path(name: str | Path) -> Path:
    """Return the path that a name stands for: ``~`` is a home folder where there is one, and a letter like any other elsewhere."""
    return Path(os.path.expanduser(name))  # noqa: PTH111 (Path.expanduser fails where there is none)


def real_path(path: Path) -> Path:
    """Return a path with all links resolved; for a link to itself, the link."""
    return Path(os.path.realpath(path))


def read_bytes(path: Path, most: int = LONGEST_TEXT) -> bytes:
    """Read a regular file whole.

    Args:
        path: The file.
        most: The most bytes that it may have.

    Raises:
        OSError: If it is longer, is not a regular file, or cannot be read.
    """
    with open_regular(path) as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise OSError(errno.EFBIG, f"longer than {most >> 20} MiB", str(path))
    return content


def read_text(path: Path, most: int = LONGEST_TEXT) -> str:
    """Read a text file whole.

    Raises:
        OSError: As ``read_bytes``.
        ValueError: If it is not UTF-8.
    """
    return read_bytes(path, most).decode("utf-8")


def parse_json(text: str | bytes) -> Any:
    """Read JSON strictly: no key twice, numbers that fit into 64 bits, valid Unicode, at most 64 levels.

    Raises:
        ValueError: If it is anything else.
    """
    try:
        value = json.loads(
            text, parse_constant=_refuse, parse_int=_whole, parse_float=_real, object_pairs_hook=each_key_once
        )
    except RecursionError:
        raise ValueError("nested too deeply") from None
    _check_depth(value)
    if ("\\u" if isinstance(text, str) else b"\\u") in text:  # type: ignore[operator]
        _check_letters(value)
    return value


def natural(text: str) -> int | None:
    """Return the number that a text is, from 0 and of at most 18 digits; None for any other text.

    ``int`` raises at some thousands of digits, which a name, a header or an option may well have.
    """
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= _DIGITS else None


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number of JSON")


def _whole(digits: str) -> int:
    if len(digits) > 20 or not -_LONGEST <= (number := int(digits)) < _LONGEST:
        raise ValueError(f"{digits[:20]}… is no number of 64 bits")
    return number


def _real(digits: str) -> float:
    if not math.isfinite(number := float(digits)):
        raise ValueError(f"{digits[:20]} is too large a number")
    return number


def each_key_once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object from its pairs, for ``object_pairs_hook``.

    Raises:
        ValueError: If a key occurs twice.
    """
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"key '{next(name for name in names if names.count(name) > 1)}' stands there twice")
    return values


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(_DEEPEST):
        inside = (outer.values() if type(outer) is dict else outer for outer in level if type(outer) in _NESTED)
        level = [inner for values in inside for inner in values if type(inner) in _NESTED]
        if not level:
            return
    raise ValueError("nested too deeply")


def _check_letters(value: Any) -> None:
    waiting = [value]
    while waiting:
        part = waiting.pop()
        if isinstance(part, str):
            try:
                part.encode()
            except UnicodeEncodeError:
                raise ValueError("half a surrogate pair is no text") from None
        elif isinstance(part, (dict, list)):
            waiting += [*(part if isinstance(part, dict) else ()), *_inside(part)]


def _inside(value: Any) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
