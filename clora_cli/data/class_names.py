"""Labels that become one as they are read: without the spaces around them, and without letters that are none (layer L1)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from clora_cli.base.errors import DataError
from clora_cli.data.readers import ClassName, Record
from clora_cli.data.values import whole_letters

__all__ = ["are_named", "check_apart", "told_of_spaces"]


def are_named(rows: Iterable[Record], column: str) -> bool:
    """Tell whether the data name the classes of a column themselves: as folders, or in a list of names."""
    return any(isinstance(row.values.get(column), ClassName) for row in rows)


def told_of_spaces(splits: Mapping[str, Sequence[Record]], column: str, source: str) -> list[str]:
    """Return a note on labels that are one without the spaces around them; nothing if there are none.

    Args:
        splits: Rows by split.
        column: The labels'.
        source: Where the rows come from, for messages.

    Raises:
        DataError: If two classes would become one that the data name themselves, and so tell apart.
    """
    for rows in splits.values():
        check_apart((value for value in _labels(rows, column) if isinstance(value, ClassName)), source)
    alike = _alike(value for rows in splits.values() for value in _labels(rows, column))
    return [f"labels that differ in the spaces around them alone are one: {', '.join(alike)}"] if alike else []


def check_apart(names: Iterable[str], source: str) -> None:
    """Refuse names of classes, as the data list them, that would become one label.

    Raises:
        DataError: If two would.
    """
    if alike := _alike(names):
        raise DataError(
            f"{source}: the classes {alike[0]} differ only in the spaces around their names, or in letters that are not UTF-8, and are "
            "read as one label; rename one, or make one class of them",
            code="classes-alike",
        )


def _labels(rows: Sequence[Record], column: str) -> Iterable[str]:
    return (value for row in rows if isinstance(value := row.values.get(column), str) and value.strip())


def _alike(labels: Iterable[str]) -> list[str]:
    forms: dict[str, set[str]] = {}
    for label in labels:
        forms.setdefault(whole_letters(label).strip(), set()).add(str(label))
    return [
        " and ".join(f"'{label}'" for label in sorted(same, reverse=True)) for same in forms.values() if len(same) > 1
    ]
