"""What rows hold that a task does not use, counted while they are read and told in one note each (layer L1)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping

from clora_cli.data.values import is_blank

__all__ = ["MISSING", "Findings", "few", "unused_columns"]

_MOST_NAMED = 12
MISSING = "missing"  # told with how a cell spells that it holds nothing; the rows are counted where they are dropped


def few(names: Iterable[str]) -> str:
    """Return names in a list for people, the first dozen of them."""
    names = list(names)
    return ", ".join(names[:_MOST_NAMED]) + (
        f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    )


class Findings:
    """Counts rows by what was found in them."""

    def __init__(self) -> None:
        self._rows: dict[str, Counter[str]] = {}
        self._names: dict[str, set[str]] = {}

    def of(self, split: str) -> Callable[..., None]:
        """Return what a reader of one row of a split tells: what is found, and the names of what that concerns."""
        told: set[str] = set()

        def found(what: str, *names: str) -> None:
            if what not in told:  # rows are counted, not turns or cells
                told.add(what)
                self._rows.setdefault(what, Counter())[split] += 1
            self._names.setdefault(what, set()).update(names)

        return found

    def of_all(self, split: str, rows: int, what: str) -> None:
        """Note what all rows of a split have in common."""
        self._rows.setdefault(what, Counter())[split] += rows
        self._names.setdefault(what, set())

    @property
    def missing(self) -> tuple[str, ...]:
        """How cells that hold nothing are spelled."""
        return tuple(sorted(self._names.get(MISSING, ())))

    def notes(self, sizes: Mapping[str, int]) -> list[str]:
        """Return a note for each thing that was found.

        Args:
            sizes: Split to its number of rows.
        """
        notes = []
        for what, counts in self._rows.items():
            if what == MISSING:
                continue
            rows = ", ".join(f"{count} of {sizes[split]} {split}" for split, count in counts.items())
            names = f" ({few(sorted(self._names[what]))})" if self._names[what] else ""
            notes.append(f"{rows} rows: {what}{names}")
        return notes


def unused_columns(rows: Iterable[Mapping[str, object]], used: Collection[str]) -> list[str]:
    """Return a note that names the columns beside those that are used, with the rows in which they hold something."""
    counts: Counter[str] = Counter()
    for row in rows:
        counts.update(column for column, value in row.items() if column not in used and not is_blank(value))
    named = few(f"{column} ({count} rows)" for column, count in counts.items())
    return [f"columns not used: {named}"] if counts else []
