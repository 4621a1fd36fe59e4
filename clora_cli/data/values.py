"""Cells to text: what a row's value may be, and what is made of it (layer L1)."""

from __future__ import annotations

from clora_cli.errors import DataError

__all__ = ["as_answers", "as_text"]


def as_text(value: object, where: str, column: str) -> str:
    """Return a cell as text: numbers and booleans as Python writes them, a missing value as an empty text.

    Half of a surrogate pair, which JSON can spell and no tokenizer can read, becomes U+FFFD.

    Args:
        value: The cell.
        where: File and place, for the message.
        column: Its column, for the message.

    Raises:
        DataError: The cell is a list or an object.
    """
    if value is None:
        return ""
    if not isinstance(value, str | int | float):
        raise DataError(f"{where}: '{column}' is a {type(value).__name__}; expected text")
    text = str(value)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def as_answers(value: object, where: str, column: str) -> tuple[str, ...]:
    """Return a cell as accepted answers: each element of a list, or the one value.

    Raises:
        DataError: An answer is a list or an object.
    """
    values = value if isinstance(value, list | tuple) else [value]
    return tuple(as_text(answer, where, column) for answer in values)
