"""Count what rows hold that a task does not use, and report each finding in one note (layer L1)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping

from clora_cli.data.values import is_blank

__all__ = ["MISSING", "Findings", "few", "unused_columns"]

_MOST_NAMED = 12
MISSING = "missing"  # comes with the spelling of an empty cell; its rows are counted where they are dropped


def few(names: Iterable[str]) -> str:
    """Return the first dozen of some names as a list for people."""
    names = list(names)
    return ", ".join(names[:_MOST_NAMED]) + (
        f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    )


class Findings:
    """Counts rows by the findings in them."""

    def __init__(self) -> None:
        self._rows: dict[str, Counter[str]] = {}
        self._names: dict[str, set[str]] = {}

    def of(self, split: str) -> Callable[..., None]:
        """Return a function for one row of a split that takes a finding and the names that it concerns."""
        counted: set[str] = set()

        def found(what: str, *names: str) -> None:
            if what not in counted:  # rows are counted, not turns or cells
                counted.add(what)
                self._rows.setdefault(what, Counter())[split] += 1
            self._names.setdefault(what, set()).update(names)

        return found

    def of_all(self, split: str, rows: int, what: str) -> None:
        """Add a finding about all rows of a split."""
        self._rows.setdefault(what, Counter())[split] += rows
        self._names.setdefault(what, set())

    @property
    def missing(self) -> tuple[str, ...]:
        """The spellings of cells that hold nothing."""
        return tuple(sorted(self._names.get(MISSING, ())))

    def notes(self, sizes: Mapping[str, int]) -> list[str]:
        """Return a note for each finding.

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
    """Return a note that names the unused columns, with the number of rows in which they hold something."""
    counts: Counter[str] = Counter()
    for row in rows:
        counts.update(column for column, value in row.items() if column not in used and not is_blank(value))
    named = few(f"{column} ({count} rows)" for column, count in counts.items())
    return [f"columns not used: {named}"] if counts else []
