"""Rows out of files: jsonl, json, csv, tsv and parquet, each row with the place it came from (layer L1).

A file that cannot be read is a :class:`DataError` of one line with the file, the line and what to do. Nothing here
knows what a column means.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from clora_cli.errors import DataError

__all__ = ["READERS", "Record", "read_json", "read_records", "read_text", "with_class_names"]

_CSV_FIELD_LIMIT = 2**31 - 1  # the module's default of 131072 characters is less than one long document


@dataclass(frozen=True, slots=True)
class Record:
    """One row.

    Attributes:
        file: The file, or what stands for it (``Hub owner/name train``).
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


def read_records(path: Path) -> list[Record]:
    """Return the rows of a file, by its ending.

    Raises:
        DataError: The file is missing, empty, not UTF-8, malformed, or of an ending that is not known.
    """
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise DataError(f"{path}: cannot read '{path.suffix}' files; use one of {', '.join(READERS)}")
    records = list(reader(path))
    if not records:
        raise DataError(f"{path}: no rows; give a file with at least three")
    return records


def read_text(path: Path) -> str:
    """Return a file's text, without a byte-order mark.

    Raises:
        DataError: The file cannot be opened, is empty or is not UTF-8.
    """
    data = _read_bytes(path)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path}, line {line}: not UTF-8 text; convert the file to UTF-8") from error
    if not text.strip():
        raise DataError(f"{path}: the file is empty; give a file with at least three rows")
    return text


def read_json(path: Path) -> object:
    """Return a whole file parsed as one JSON value.

    Raises:
        DataError: As :func:`read_text`, or the text is not JSON.
    """
    text = read_text(path)
    try:
        value: object = json.loads(text)
    except json.JSONDecodeError as error:
        raise _not_json(path, error.lineno, error.msg) from error
    except (ValueError, RecursionError) as error:
        raise _not_json(path, 1, str(error)) from error
    return value


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}; check the path and its permissions") from error


def _not_json(path: Path, line: int, why: str) -> DataError:
    return DataError(f"{path}, line {line}: not valid JSON ({why}); mend or remove the line")


def _jsonl(path: Path) -> Iterator[Record]:
    # split("\n"), not splitlines(): U+2028 and its like are legal inside a JSON string.
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if line.strip():
            yield Record(str(path), "line", number, _object(path, "line", number, _parse_line(path, number, line)))


def _parse_line(path: Path, number: int, line: str) -> object:
    try:
        value: object = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise _not_json(path, number, getattr(error, "msg", str(error))) from error
    return value


def _json(path: Path) -> Iterator[Record]:
    """Rows of a list, of the list under ``data``, or of JSON lines in a file that is named ``.json``."""
    text = read_text(path)
    first, _, rest = text.strip().partition("\n")
    if rest and first.lstrip().startswith("{") and first.rstrip().endswith("}"):
        yield from _jsonl(path)
        return
    value = read_json(path)
    rows = value.get("data") if isinstance(value, dict) else value
    if not isinstance(rows, list):
        raise DataError(f'{path}: expected a list of rows or an object with a list under "data"')
    for number, row in enumerate(rows, start=1):
        yield Record(str(path), "row", number, _object(path, "row", number, row))


def _object(path: Path, unit: str, number: int, value: object) -> Mapping[str, object]:
    if not isinstance(value, dict):
        raise DataError(f"{path}, {unit} {number}: expected an object with named fields, not {type(value).__name__}")
    return value


def _csv(path: Path) -> Iterator[Record]:
    yield from _delimited(path, ",")


def _tsv(path: Path) -> Iterator[Record]:
    yield from _delimited(path, "\t")


def _delimited(path: Path, delimiter: str) -> Iterator[Record]:
    csv.field_size_limit(_CSV_FIELD_LIMIT)
    rows = csv.reader(io.StringIO(read_text(path), newline=""), delimiter=delimiter, strict=True)
    try:
        header = _header(path, next(rows))
        for row in rows:
            if row:
                yield Record(str(path), "line", rows.line_num, _fields(path, rows.line_num, header, row))
    except csv.Error as error:
        raise DataError(f"{path}, line {rows.line_num}: not valid CSV ({error}); check its quotes") from error


def _header(path: Path, names: list[str]) -> list[str]:
    names = [name.strip() for name in names]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise DataError(f"{path}, line 1: column '{repeated[0]}' occurs more than once; rename one of them")
    return names


def _fields(path: Path, line: int, header: list[str], row: list[str]) -> dict[str, object]:
    if len(row) != len(header):
        raise DataError(
            f"{path}, line {line}: {len(row)} fields where the header has {len(header)}; quote fields with delimiters"
        )
    return dict(zip(header, row, strict=True))


def _parquet(path: Path) -> Iterator[Record]:
    import pyarrow as pa  # type: ignore[import-untyped]
    import pyarrow.parquet as pq  # type: ignore[import-untyped]

    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        why = str(error).splitlines()[0]
        raise DataError(f"{path}: not a readable Parquet file ({why}); write it again") from error
    names = _class_names(table.schema.metadata or {})
    for number, row in enumerate(table.to_pylist(), start=1):
        yield Record(str(path), "row", number, with_class_names(row, names))


def _class_names(metadata: Mapping[bytes, bytes]) -> dict[str, list[str]]:
    """Label names of class columns, which ``datasets`` keeps beside the schema while the cells hold only integers."""
    try:
        features = json.loads(metadata.get(b"huggingface", b"{}")).get("info", {}).get("features", {})
        return {name: f["names"] for name, f in features.items() if f.get("_type") == "ClassLabel" and f.get("names")}
    except (ValueError, AttributeError, KeyError):
        return {}  # the metadata are a courtesy of the writer: without them the integers are the labels


def with_class_names(row: Mapping[str, object], names: Mapping[str, list[str]]) -> dict[str, object]:
    """Return a row whose class indices are replaced by their names; an index out of range (-1: no label) is empty."""
    mapped = dict(row)
    for column, labels in names.items():
        index = mapped.get(column)
        if isinstance(index, int):
            mapped[column] = labels[index] if 0 <= index < len(labels) else None
    return mapped


READERS: dict[str, Callable[[Path], Iterator[Record]]] = {
    ".jsonl": _jsonl,
    ".json": _json,
    ".csv": _csv,
    ".tsv": _tsv,
    ".parquet": _parquet,
}
