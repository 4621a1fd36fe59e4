"""Convert cells of rows to text, answers and truth values (layer L1)."""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Iterable, Mapping
from datetime import date, time
from decimal import Decimal

from clora_cli.base.errors import DataError
from clora_cli.data.readers import ClassName, parse_json

__all__ = [
    "as_answers",
    "as_flag",
    "as_text",
    "is_blank",
    "missing",
    "several",
    "unpacked",
    "whole_letters",
    "whole_numbers",
]

# How Python, NumPy, pandas and databases write a missing value as text; the first is never an answer.
_LOST = {"nan", "<na>"}
_NOTHING = {"null", "NULL", "None", "NaT"}
_POINT_ZERO = re.compile(r"[-+]?\d+\.0+")
_PLURAL = {"answers", "references", "targets", "outputs", "completions"}
_ARRAY = re.compile(r"\barray\((\[[^\[\]]*\])(?:,\s*dtype=\w+)?\)")
_BETWEEN = re.compile(r"(?<=['\"])\s+(?=['\"])")
_FLAGS = {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}
_DECIMAL = re.compile(r"[-+]?\d*\.\d+")


def as_text(value: object, where: str, column: str) -> str:
    """Return a cell as text: numbers and booleans as Python writes them, a missing value (null, NaN) as an empty text.

    Half of a surrogate pair, which JSON can spell and no tokenizer can read, becomes U+FFFD.

    Args:
        value: The cell.
        where: File and place, for the message.
        column: Its column, for the message.

    Raises:
        DataError: The cell is a list or an object.
    """
    if missing(value):
        return ""
    if not isinstance(value, str | int | float | Decimal | date | time):
        raise DataError(
            f"{where}: '{column}' is a {type(value).__name__}; expected text: write it as one", code="value-not-text"
        )
    return whole_letters(str(value))


def whole_letters(text: str) -> str:
    """Return a text with U+FFFD for each half of a surrogate pair, as JSON can spell it and a path has it where it is not UTF-8."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def as_answers(value: object, where: str, column: str) -> tuple[str, ...]:
    """Return a cell as accepted answers: each element of a list, or the single value.

    Raises:
        DataError: An answer is a list or an object.
    """
    values = value if isinstance(value, list | tuple) else [value]
    return tuple(as_text(answer, where, column) for answer in values)


def as_flag(value: object) -> bool | None:
    """Return a cell that says yes or no, as a truth value, as 1 or 0 or as its English name; None for any other."""
    if isinstance(value, int | float):
        return bool(value) if value in (0, 1) else None
    return _FLAGS.get(value.strip().casefold()) if isinstance(value, str) else None


def unpacked(value: object) -> object:
    """Return a list or object from its text in a table cell: JSON or Python's spelling."""
    if not isinstance(value, str) or not value.lstrip().startswith(("[", "{")):
        return value
    for read in (parse_json, _python):
        try:
            return read(value.strip())
        except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
            continue
    return value


def _python(text: str) -> object:
    """A value from Python's spelling, as pandas writes lists, or from a NumPy array's, without commas between texts."""
    text = _BETWEEN.sub(", ", _ARRAY.sub(r"\1", text))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # warnings about unknown escapes
        return ast.literal_eval(text)


def several(value: object, column: str) -> object:
    """Return the answers of a cell with several: SQuAD's object of texts, or the text of a list in a table.

    The text of a list is a single answer, except in a column whose name says that it holds several.
    """
    if column.casefold() in _PLURAL and isinstance(listed := unpacked(value), list | Mapping):
        value = listed
    if isinstance(value, Mapping) and isinstance(value.get("text"), list):
        return value["text"]
    return value


def is_blank(value: object) -> bool:
    """Whether a cell holds nothing: null, NaN, white space, an empty list or object."""
    if isinstance(value, str):
        return not value.strip()
    if missing(value):
        return True
    return isinstance(value, list | tuple | Mapping) and not value


def missing(value: object, *, label: bool = False) -> str:
    """Return the cell's spelling of a missing value, such as ``null`` or ``nan``; empty if it is none.

    Args:
        value: The cell.
        label: Whether it is a label or a labelled text, for which ``None`` and ``null`` count as missing; free answers may be
            either word.
    """
    if value is None:
        return "null"
    text = str(value).strip() if isinstance(value, str | float) and not isinstance(value, ClassName) else ""
    return text if text.casefold() in _LOST or (label and text in _NOTHING) else ""


def whole_numbers(labels: Iterable[str]) -> dict[str, str]:
    """Return labels such as ``1.0`` with their spelling as whole numbers; empty if a label has a fraction.

    Columns of whole numbers become decimals when a value is missing.
    """
    labels = set(labels)
    decimals = {label for label in labels if _POINT_ZERO.fullmatch(label)}
    if any(_DECIMAL.fullmatch(label) for label in labels - decimals):
        return {}
    return {label: str(int(float(label))) for label in decimals}
