"""Read rows from jsonl, json, csv, tsv, parquet and arrow files, each row with its place in the file (layer L1).

A file that cannot be read is a :class:`DataError` of one line with the file, the line and what to do. Nothing here
knows what a column means.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clora_cli.base.errors import DataError
from clora_cli.base.files import stand_in
from clora_cli.base.intake import each_key_once
from clora_cli.data.delimited import read_table
from clora_cli.data.texts import COMPRESSED, ending, library, read_bytes, read_text

__all__ = [
    "READERS",
    "ClassName",
    "Record",
    "is_readable",
    "parse_json",
    "read_json",
    "read_records",
    "with_class_names",
]

_MOST_DIGITS = 4300  # that Python converts, unless it is told another number


@dataclass(frozen=True, slots=True)
class Record:
    """One row.

    Attributes:
        file: The file, or the name of another source (``Hub owner/name train``).
        unit: What ``number`` counts: ``line`` or ``row``.
        number: Place in the file, from 1.
        values: Column to value.
    """

    file: str
    unit: str
    number: int
    values: Mapping[str, object]

    @property
    def where(self) -> str:
        """File and place, for messages."""
        return f"{self.file}, {self.unit} {self.number}"


class ClassName(str):
    """A class's name as the data give it themselves, of a folder or in a list of names: never an empty cell, whatever it says."""


def is_readable(path: Path) -> bool:
    """Whether a name has the ending of a file of rows, compressed or not."""
    return ending(path) in READERS


def read_records(path: Path, notes: list[str] | None = None) -> list[Record]:
    """Return the rows of a file, by its ending.

    Args:
        path: The file.
        notes: Where to note decisions made while reading.

    Raises:
        DataError: The file is missing, empty, malformed, not in a Unicode encoding, or has an unknown ending.
    """
    _check_whole(path)
    reader = READERS.get(ending(path))
    if reader is None:
        known = f"{', '.join(READERS)}, each also with {', '.join(COMPRESSED)}"
        raise DataError(
            f"{path}: cannot read '{path.suffix}' files; use one of {known}", code="file-type-not-supported"
        )
    records = list(reader(path, [] if notes is None else notes))
    if not records:
        raise DataError(f"{path}: no rows; give a file with at least three", code="no-rows")
    return records


def read_json(path: Path) -> object:
    """Return a whole file parsed as one JSON value.

    Raises:
        DataError: As ``read_text``, or the text is not JSON.
    """
    _check_whole(path)
    text = read_text(path)
    try:
        return parse_json(text)
    except json.JSONDecodeError as error:
        raise _not_json(path, error.lineno, error.msg) from error
    except (ValueError, RecursionError) as error:
        raise _not_json(path, 1, str(error)) from error


def _check_whole(path: Path) -> None:
    if problem := stand_in(path):
        raise DataError(f"{path} {problem}", code="file-is-stand-in")


def parse_json(text: str | bytes, *, nan: bool = True) -> object:
    """Return a JSON value in which no object has a key twice.

    Args:
        text: The JSON text, with nothing around it.
        nan: Whether to accept ``NaN`` and ``Infinity``, which Python writes although they are not JSON.

    Raises:
        ValueError: It is not JSON, a key occurs twice, so that one of its values would be lost, or a number has thousands of digits.
        RecursionError: It is nested too deeply.
    """
    constant = float if nan else _refuse
    value: object = json.loads(text, object_pairs_hook=each_key_once, parse_int=_whole, parse_constant=constant)
    return value


def _whole(digits: str) -> int:
    if len(digits) > _MOST_DIGITS:  # Python's own words tell of a setting of Python's
        raise ValueError(f"a number of {len(digits)} digits")
    return int(digits)


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is no number of JSON")


def _not_json(path: Path, line: int, why: str) -> DataError:
    return DataError(f"{path}, line {line}: not valid JSON ({why}); mend or remove the line", code="json-malformed")


def _jsonl(path: Path, notes: list[str]) -> Iterator[Record]:
    # split("\n"), not splitlines(): U+2028 and its like are legal inside a JSON string.
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if line.strip():
            yield Record(str(path), "line", number, _object(path, "line", number, _parse_line(path, number, line)))


def _parse_line(path: Path, number: int, line: str) -> object:
    try:
        return parse_json(line)
    except (ValueError, RecursionError) as error:
        raise _not_json(path, number, getattr(error, "msg", str(error))) from error


def _json(path: Path, notes: list[str]) -> Iterator[Record]:
    """Rows of a list, of the list under ``data``, or of JSON lines in a file that is named ``.json``."""
    text = read_text(path)
    first, _, rest = text.strip().partition("\n")
    if rest and first.lstrip().startswith("{") and first.rstrip().endswith("}"):
        yield from _jsonl(path, notes)
        return
    value = read_json(path)
    rows = value.get("data") if isinstance(value, dict) else value
    if not isinstance(rows, list):
        lists = [f"'{key}'" for key, kept in _items(value) if isinstance(kept, list)]
        mend = f"save {', '.join(lists)} as files of their own" if lists else "write the rows as one"
        raise DataError(
            f'{path}: expected a list of rows or an object with a list under "data"; {mend}', code="rows-not-a-list"
        )
    beside = [
        f"'{key}' ({len(kept)} rows)" for key, kept in _items(value) if kept is not rows and isinstance(kept, list)
    ]
    if beside:
        notes.append(f'{path.name}: {", ".join(beside)} beside "data" not used')
    for number, row in enumerate(rows, start=1):
        yield Record(str(path), "row", number, _object(path, "row", number, row))


def _items(value: object) -> Iterable[tuple[str, object]]:
    return value.items() if isinstance(value, dict) else ()


def _object(path: Path, unit: str, number: int, value: object) -> Mapping[str, object]:
    if not isinstance(value, dict):
        kind = type(value).__name__
        raise DataError(
            f"{path}, {unit} {number}: expected an object with named fields, not {kind}; write each row as one",
            code="row-not-an-object",
        )
    return value


def _delimited(delimiter: str) -> Callable[[Path, list[str]], Iterator[Record]]:
    def read(path: Path, notes: list[str]) -> Iterator[Record]:
        for line, values in read_table(path, read_text(path), delimiter, notes):
            yield Record(str(path), "line", line, values)

    return read


def _parquet(path: Path, notes: list[str]) -> Iterator[Record]:
    import pyarrow as pa  # type: ignore[import-untyped]
    import pyarrow.parquet as pq  # type: ignore[import-untyped]

    with library(str(path), "a readable Parquet file", "write it again"):
        whole = pa.BufferReader(read_bytes(path)) if path.suffix.lower() in COMPRESSED else path
        table = pq.ParquetFile(whole).read()
    yield from _rows_of(path, table)


def _arrow(path: Path, notes: list[str]) -> Iterator[Record]:
    import pyarrow as pa

    with library(str(path), "a readable Arrow file", "write it again"):
        whole = pa.BufferReader(read_bytes(path)) if path.suffix.lower() in COMPRESSED else pa.memory_map(str(path))
        try:
            table = pa.ipc.open_stream(whole).read_all()  # as ``datasets`` writes it
        except pa.ArrowInvalid:
            table = pa.ipc.open_file(whole).read_all()
    yield from _rows_of(path, table)


def _rows_of(path: Path, table: Any) -> Iterator[Record]:
    with library(str(path), "a readable table", "write it again"):
        columns, rows = table.column_names, table.to_pylist()
    if twice := next((name for name in columns if columns.count(name) > 1), None):
        raise DataError(f"{path}: column '{twice}' occurs more than once; rename one of them", code="column-twice")
    names = _class_names(table.schema.metadata or {})
    for number, row in enumerate(rows, start=1):
        yield Record(str(path), "row", number, with_class_names(row, names))


def _class_names(metadata: Mapping[bytes, bytes]) -> dict[str, list[str]]:
    """Label names of class columns, which ``datasets`` keeps beside the schema while the cells hold only integers."""
    try:
        features = json.loads(metadata.get(b"huggingface", b"{}")).get("info", {}).get("features", {})
        inner = {name: f.get("feature") or f for name, f in features.items()}
        return {name: f["names"] for name, f in inner.items() if f.get("_type") == "ClassLabel" and f.get("names")}
    except (ValueError, AttributeError, KeyError):
        return {}  # the metadata are optional: without them the integers are the labels


def with_class_names(row: Mapping[str, object], names: Mapping[str, list[str]]) -> dict[str, object]:
    """Return a row with class names in place of indices; an index out of range (-1: no label) becomes empty."""
    mapped = dict(row)
    for column, labels in names.items():
        value = mapped.get(column)
        if isinstance(value, list):
            mapped[column] = [_class_name(index, labels) for index in value]
        else:
            mapped[column] = _class_name(value, labels)
    return mapped


def _class_name(index: object, labels: list[str]) -> object:
    if not isinstance(index, int):
        return index
    return ClassName(labels[index]) if 0 <= index < len(labels) else None


READERS: dict[str, Callable[[Path, list[str]], Iterator[Record]]] = {
    ".jsonl": _jsonl,
    ".json": _json,
    ".csv": _delimited(","),
    ".tsv": _delimited("\t"),
    ".parquet": _parquet,
    ".ndjson": _jsonl,
    ".arrow": _arrow,
}
