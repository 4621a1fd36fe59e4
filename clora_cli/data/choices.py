"""Multiple choice: a question, its choices and the right one, in the various spellings of data sets (layer L1).

The prompt lists the choices under letters, and the answer is a letter. The key to the right choice may be a letter, a label
of the choices' own, the choice's text, or its number; all rows together decide whether numbers count from 0 or from 1.
"""

from __future__ import annotations

import string
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from clora_cli.base.errors import DataError
from clora_cli.base.intake import natural
from clora_cli.data.conversations import Found
from clora_cli.data.readers import Record
from clora_cli.data.task import Example
from clora_cli.data.templates import question
from clora_cli.data.values import as_text, is_blank, unpacked

__all__ = ["COLUMNS", "LETTERS", "build", "lettered"]

LETTERS = string.ascii_uppercase
_LETTERED = "abcde"
# Roles of columns that hold one choice each, and the names that data sets have for them.
COLUMNS = {
    f"choice_{letter}": (
        letter,
        f"op{letter}",
        f"choice{number}",
        f"option{number}",
        f"option_{letter}",
        f"sol{number}",
    )
    for number, letter in enumerate(_LETTERED, start=1)
}
_Fields = Mapping[str, str]


def build(row: Record, fields: _Fields, found: Found) -> Example:
    """Return an example of the question, below its context if any, and above its choices; the answer is the letter in ``key``."""
    texts = {role: as_text(row.values.get(fields[role]), row.where, fields[role]) for role in fields if role in _TEXTS}
    choices, asked = [text for _, text in _choices(row, fields)], texts.get("stem", "").strip()
    letter = str(row.values.get(fields["key"]) or "") if "key" in fields else ""
    lines = [asked, *(f"{name}. {text}" for name, text in zip(LETTERS, choices, strict=False))]
    body = "\n".join(lines) if asked and choices else ""
    return question(body, texts.get("context", ""), (letter,) if letter else ())


_TEXTS = ("stem", "context")


def lettered(
    splits: Mapping[str, Sequence[Record]], fields: _Fields
) -> tuple[dict[str, list[Record]], tuple[str, ...], list[str]]:
    """Return the rows with letters in the column of ``key``, all letters, and notes.

    A key that names none of its row's choices becomes empty, like that of a row without an answer.

    Args:
        splits: Rows by split.
        fields: Role to column.

    Raises:
        DataError: Choices are not a list, or no row's key names one of its choices.
    """
    rows = [row for part in splits.values() for row in part]
    choices = {id(row): _choices(row, fields) for row in rows}
    letters = tuple(LETTERS[: max(map(len, choices.values()), default=0)])
    if "key" not in fields:
        return {split: list(part) for split, part in splits.items()}, letters, []
    column = fields["key"]
    first = _counted_from([(row.values.get(column), choices[id(row)]) for row in rows])
    keys = {id(row): _key(row.values.get(column), choices[id(row)], first) for row in rows}
    if not any(keys.values()):
        raise DataError(
            f"{rows[0].where}: '{column}' names none of the choices; pass --columns key=COLUMN",
            code="answer-not-a-choice",
        )
    done = {
        split: [replace(row, values={**row.values, column: keys[id(row)]}) for row in part]
        for split, part in splits.items()
    }
    notes = [] if first is None else [f"'{column}' is read as the number of a choice, counted from {first}"]
    return done, letters, notes


def _choices(row: Record, fields: _Fields) -> list[tuple[str, str]]:
    """A row's choices, each with its label: from a list, or from one column each."""
    if "choices" not in fields:
        there = [fields[role] for role in COLUMNS if role in fields and not is_blank(row.values.get(fields[role]))]
        return [("", as_text(row.values[column], row.where, column).strip()) for column in there]
    column = fields["choices"]
    value = unpacked(row.values.get(column))
    if isinstance(value, Mapping) and isinstance(value.get("text"), list):
        value = dict(zip(value.get("label") or LETTERS, value["text"], strict=False))
    if isinstance(value, Mapping):
        pairs: Iterable[tuple[object, object]] = value.items()
    elif isinstance(value, list | tuple):
        pairs = [
            (each.get("label", ""), each.get("text")) if isinstance(each, Mapping) else ("", each) for each in value
        ]
    elif is_blank(value):
        pairs = []
    else:
        raise DataError(
            f"{row.where}: '{column}' is a {type(value).__name__}; expected a list of choices; write it as one",
            code="choices-not-a-list",
        )
    found = [(str(label).strip(), as_text(text, row.where, column).strip()) for label, text in pairs]
    if len(found) > len(LETTERS):
        raise DataError(
            f"{row.where}: '{column}' has {len(found)} choices; {len(LETTERS)} can be told apart by letters",
            code="too-many-choices",
        )
    return found


def _counted_from(cells: Sequence[tuple[object, Sequence[tuple[str, str]]]]) -> int | None:
    """Whether keys count the choices from 0 or 1; None if they are not numbers of choices."""
    held = [(value, choices) for value, choices in cells if not is_blank(value)]
    numbers = [(_whole(value), len(choices)) for value, choices in held]
    if not numbers or any(number is None or not -1 <= number <= count for number, count in numbers):
        return None
    named = [str(value).strip() in {part for pair in choices for part in pair} for value, choices in held]
    if all(named) and (all(isinstance(value, str) for value, _ in held) or all(label for label, _ in held[0][1])):
        return None  # texts of choices, or labels that are numbers
    return 1 if not any(number == 0 for number, _ in numbers) and any(n == count for n, count in numbers) else 0


def _key(value: object, choices: Sequence[tuple[str, str]], first: int | None) -> str:
    """The letter of the choice that a cell names; empty if it names none."""
    if first is not None:
        number = _whole(value)
        return LETTERS[number - first] if number is not None and 0 <= number - first < len(choices) else ""
    text = str(value).strip() if isinstance(value, str | int | float) else ""
    for names in ([label for label, _ in choices], [name for _, name in choices]):
        if text and text in names:
            return LETTERS[names.index(text)]
    letter = text.strip("(). ").upper()
    return letter if letter and letter in tuple(LETTERS[: len(choices)]) else ""


def _whole(value: object) -> int | None:
    text = str(value).strip()
    size = natural(text.removesuffix(".0").removeprefix("-"))
    return -size if size and text.startswith("-") else size
