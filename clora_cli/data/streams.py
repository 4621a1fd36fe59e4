"""Rows as a stream: JSON lines from a pipe, or a file that is only read as far as needed (layer L1)."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from clora_cli.base.errors import DataError
from clora_cli.base.intake import named_path
from clora_cli.data.bundled import bundled_name
from clora_cli.data.known_tasks import canonical
from clora_cli.data.layouts import is_task_file
from clora_cli.data.readers import Record, is_readable, parse_json, read_records
from clora_cli.data.registry_names import entry_of
from clora_cli.data.texts import starts_with

__all__ = ["read_lines", "row_file", "stream_records"]

_LINES = {".jsonl", ".ndjson"}


def row_file(name: str) -> Path | None:
    """Return the file of rows that ``--data`` names; None if it names a task.

    Files with a known ending and named pipes are files of rows; a file that holds a whole task with its definition is not, nor
    is one whose columns a registry names.
    """
    path = named_path(name)
    if bundled_name(name) or canonical(name):
        return None
    if path.is_fifo():
        return path
    whole = is_readable(path) and path.is_file() and not is_task_file(path) and entry_of(path) is None
    return path if whole else None


def stream_records(path: Path) -> Iterator[Record]:
    """Yield the rows of a file; JSON lines in UTF-8 are read one by one, files of other kinds as a whole.

    Raises:
        DataError: As ``read_records`` and ``read_lines``, when the row is reached.
    """
    if not (path.is_fifo() or (path.suffix.lower() in _LINES and _is_utf8(path))):
        yield from read_records(path)
        return
    try:
        with path.open("rb") as file:
            yield from read_lines(file, str(path))
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read: {error.strerror}; check the path and its permissions", code="path-unreadable"
        ) from error


def read_lines(stream: Iterable[bytes], name: str) -> Iterator[Record]:
    """Yield the rows of a stream of JSON lines, reading each line only when it is needed; blank lines are skipped.

    Args:
        stream: Lines with their line endings.
        name: The stream's name for messages, such as ``standard input``.

    Raises:
        DataError: A line is not UTF-8, not JSON or not an object; the message has its number.
    """
    for number, line in enumerate(stream, start=1):
        text = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
        if text.strip():
            yield Record(name, "line", number, _fields(text, f"{name}, line {number}"))


def _is_utf8(path: Path) -> bool:
    return json.detect_encoding(starts_with(path, 4)).startswith("utf-8")


def _fields(line: bytes, where: str) -> Mapping[str, object]:
    try:
        value = parse_json(line.decode("utf-8"), nan=False)
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: not UTF-8 text; convert it to UTF-8", code="text-wrong-encoding") from error
    except (ValueError, RecursionError) as error:
        why = getattr(error, "msg", str(error))
        raise DataError(f"{where}: not valid JSON ({why}); mend or remove the line", code="json-malformed") from error
    if not isinstance(value, dict):
        raise DataError(
            f"{where}: expected an object with named fields, not {type(value).__name__}", code="row-not-an-object"
        )
    return value
