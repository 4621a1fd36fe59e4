"""Delimited files: what a quotation mark means is decided once a file, and no quote glues rows together (layer L1).

Spreadsheets and CSV writers quote fields; GLUE's and many other TSV files have quotation marks that are text. A file is
read the first way unless that fails or swallows lines that are rows, and the second way fits every line.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from clora_cli.base.errors import DataError

__all__ = ["read_table"]

_FIELD_LIMIT = 2**31 - 1  # the module's default of 131072 characters is less than one long document
_OTHERS = ("\t", ";", "|")  # what separates fields of a .csv file whose header has no comma

_Row = tuple[int, list[str]]  # number of its last line, and its fields


@dataclass(frozen=True, slots=True)
class _Parsed:
    """A file read one way; ``rows`` include the header."""

    rows: list[_Row]
    problem: str = ""


def read_table(path: Path, text: str, delimiter: str, notes: list[str]) -> Iterator[tuple[int, dict[str, object]]]:
    """Yield the rows of a delimited text with a header, each with the number of its last line.

    Args:
        path: The file, for messages.
        text: Its content.
        delimiter: What separates fields.
        notes: Where to say how quotation marks were read, if there was a choice.

    Raises:
        DataError: A row has another number of fields than the header, a column's name occurs twice, or a quote that
            nothing closes swallows rows.
    """
    csv.field_size_limit(_FIELD_LIMIT)
    text, delimiter = _separated(text, delimiter)
    (_, names), *rows = _rows(path, text, delimiter, notes)
    header = _header(path, names)
    for line, row in rows:
        if len(row) != len(header):
            raise DataError(
                f"{path}, line {line}: {len(row)} fields where the header has {len(header)}; quote fields with delimiters",
                code="csv-fields-misaligned",
            )
        yield line, dict(zip(header, row, strict=True))


def _separated(text: str, delimiter: str) -> tuple[str, str]:
    """The text and what separates its fields, which spreadsheets may say in a line of its own: ``sep=;``."""
    head, end, rest = text.lstrip("\n\r").partition("\n")
    if said := re.fullmatch(r"sep=(.)\r?", head):
        return end + rest, said[1]  # the line stays, empty, so that those below it keep their numbers
    fewer = '"' not in head and head.count(",") < head.count(";")
    if delimiter == "," and (fewer or "," not in head):
        delimiter = next((other for other in _OTHERS if other in head), ",")
    return text, delimiter


def _rows(path: Path, text: str, delimiter: str, notes: list[str]) -> list[_Row]:
    quoted = _parse(text, delimiter)
    if delimiter == "," and any(
        _is_quoted(field.strip()) for _, row in quoted.rows for field in row if field[:1] == " "
    ):
        spaced = _parse(text, delimiter, skipinitialspace=True)
        if not spaced.problem:
            quoted = spaced
            notes.append(f"{path.name}: spaces before quotation marks are no part of a field")
    if '"' not in text and not quoted.problem:
        return quoted.rows
    literal = _literal(text, delimiter)
    width = len(literal[0][1])
    fits = width > 1 and all(len(row) == width for _, row in literal) and '"' not in "".join(literal[0][1])
    problem = quoted.problem or _swallowed(text, quoted.rows, delimiter)
    odd = fits and delimiter == "\t" and literal != quoted.rows and _has_stray(literal)
    if not problem and odd and not _is_written(text, quoted.rows):
        problem = "some stand where no writer of quoted fields would leave them"
    if not problem:
        return quoted.rows
    if fits:
        notes.append(f"{path.name}: quotation marks are read as text: {problem}")
        return literal
    escaped = _parse(text, delimiter, doublequote=False, escapechar="\\")
    if '\\"' in text and not escaped.problem and not _swallowed(text, escaped.rows, delimiter):
        notes.append(f"{path.name}: quotation marks after a backslash are read as text inside a field")
        return escaped.rows
    raise DataError(f"{path}: not valid CSV: {problem}; close or double its quotes", code="csv-malformed")


def _parse(text: str, delimiter: str, **how: object) -> _Parsed:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True, **how)  # type: ignore[arg-type]
    rows: list[_Row] = []
    begun = 1
    try:
        for row in reader:
            if any(map(str.strip, row[:1])) or len(row) > 1:  # a line of spaces is no row
                rows.append((reader.line_num, row))
            begun = reader.line_num + 1
    except csv.Error as error:
        return _Parsed(rows, f"line {begun} opens a quote that is not closed as it should be ({error})")
    return _Parsed(rows)


def _literal(text: str, delimiter: str) -> list[_Row]:
    lines = enumerate(io.StringIO(text, newline=None), start=1)
    return [(number, line.rstrip("\n").split(delimiter)) for number, line in lines if line.strip()]


def _has_stray(rows: Sequence[_Row]) -> bool:
    """Whether a field has quotation marks that no writer of quoted fields would have left so."""
    return any('"' in field and not _is_quoted(field) for _, row in rows for field in row)


def _is_quoted(field: str) -> bool:
    inside = field[1:-1].replace('""', "")
    return len(field) > 1 and field[0] == field[-1] == '"' and '"' not in inside


def _is_written(text: str, rows: Sequence[_Row]) -> bool:
    """Whether a writer of quoted fields made a text: it doubles the quotes inside fields, and would write it so again."""
    if '""' not in text:
        return False
    again = io.StringIO()
    csv.writer(again, delimiter="\t", lineterminator="\n").writerows(row for _, row in rows)
    return again.getvalue().strip("\n") == text.replace("\r\n", "\n").strip("\n")


def _swallowed(text: str, rows: Sequence[_Row], delimiter: str) -> str:
    """Tell which lines a quote made one row of although each looks like a row, as one that nothing closes does.

    Each such line has as many fields as the header, and one of them is, in all of them, what rows of one line have too:
    a label, which the lines of a text do not end in.
    """
    lines, width, before = list(io.StringIO(text, newline=None)), len(rows[0][1]), rows[0][0]
    single: list[set[str]] = [set() for _ in range(width)]
    longer: list[tuple[int, int]] = []
    for line, row in rows[1:]:
        if line - before > 1:
            longer.append((before + 1, line))
        elif len(row) == width:
            for seen, cell in zip(single, row, strict=True):
                seen.add(cell)
        before = line
    for first, last in longer if width > 1 else ():
        cells = [_cells(line.rstrip("\n"), delimiter) for line in lines[first - 1 : last] if line.strip()]
        if len(cells) > 1 and all(len(row) == width for row in cells) and _alike(cells, single):
            return f"lines {first} to {last} are rows, and a quote opened at line {first} would make one of them"
    return ""


def _alike(rows: Sequence[Sequence[str]], seen: Sequence[set[str]]) -> bool:
    columns = ([cell.strip('"') for cell in column] for column in zip(*rows, strict=True))
    return any(all(cell and cell in known for cell in column) for column, known in zip(columns, seen, strict=True))


def _cells(line: str, delimiter: str) -> list[str]:
    try:
        return next(csv.reader([line], delimiter=delimiter, strict=True))
    except csv.Error:
        return line.split(delimiter)


def _header(path: Path, names: list[str]) -> list[str]:
    names = [name.strip() or f"column {number}" for number, name in enumerate(names, start=1)]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise DataError(
            f"{path}, line 1: column '{repeated[0]}' occurs more than once; rename one of them", code="column-twice"
        )
    return names
