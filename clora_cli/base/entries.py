"""Records on disk as frozen types (layer L0): each key is declared once, with its check and its meaning.

A record wraps the JSON object that it was read from, so that keys of newer versions survive a rewrite; its attributes are
the keys that this version knows. The checks of a reader and the tables of ``docs/package-format.md`` come from the same
declarations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, overload

from clora_cli.base.records import Check, any_text, each, flag, is_table, listed, maybe, name, number, whole

__all__ = [
    "Entry",
    "Record",
    "a_flag",
    "a_line",
    "a_number",
    "a_table",
    "a_text",
    "a_whole",
    "records_of",
    "some",
    "texts",
    "the_record",
    "whatever",
]

T = TypeVar("T")
R = TypeVar("R", bound="Record")
_ENTRIES: dict[Any, tuple[Entry[Any], ...]] = {}


class Entry(Generic[T]):
    """One key of a record, as an attribute of its class.

    Args:
        check: What its value must be.
        kind: The same in words, for the documentation.
        meaning: What it records, for the documentation.
        convert: Turns the JSON value into the attribute's.
        inner: The class of the records that it holds; None for plain values.
        apart: Whether the documentation gives each key of an inner record a row of its own.
    """

    def __init__(
        self,
        check: Check,
        kind: str,
        meaning: str,
        convert: Callable[[Any], T],
        inner: type[Record] | None = None,
        *,
        apart: bool = False,
    ) -> None:
        self.check, self.kind, self.meaning, self.convert, self.inner = check, kind, meaning, convert, inner
        self.apart = apart
        self.optional = False
        self.key = ""

    def __set_name__(self, owner: type[Record], name: str) -> None:
        self.key = name

    @overload
    def __get__(self, record: None, owner: type[Record]) -> Entry[T]: ...

    @overload
    def __get__(self, record: Record, owner: type[Record]) -> T: ...

    def __get__(self, record: Record | None, owner: type[Record]) -> Entry[T] | T:
        return self if record is None else self.convert(record.raw.get(self.key))

    def wrong(self, raw: Mapping[str, Any]) -> str | None:
        """Return the path of the first key that is missing or has a wrong value in an object; None if all is well."""
        if self.key not in raw:
            return None if self.optional else self.key
        value = raw[self.key]
        if self.inner is not None and isinstance(value, Mapping):
            odd = self.inner.wrong(value)
            return f"{self.key}.{odd}" if odd else None
        return None if self.check(value) else self.key


@dataclass(frozen=True)
class Record:
    """A JSON object whose known keys are attributes.

    Attributes:
        raw: The object, keys of other versions included.
    """

    raw: Mapping[str, Any]

    @classmethod
    def entries(cls) -> tuple[Entry[Any], ...]:
        """Return the declared keys, in order."""
        if cls not in _ENTRIES:  # a package of a thousand members asks for them a hundred thousand times
            values = (value for owner in reversed(cls.__mro__) for value in vars(owner).values())
            _ENTRIES[cls] = tuple(value for value in values if isinstance(value, Entry))
        return _ENTRIES[cls]

    @classmethod
    def wrong(cls, raw: Mapping[str, Any]) -> str | None:
        """Return the first key of an object that is missing or has a wrong value, such as ``data.name``."""
        for entry in cls.entries():
            if odd := entry.wrong(raw):
                return odd
        return None

    @classmethod
    def documented(cls, prefix: str = "") -> Iterator[tuple[str, str, str]]:
        """Yield key, type and meaning of each entry; keys of inner records as paths."""
        for entry in cls.entries():
            meaning = f"{entry.meaning}; *optional*" if entry.optional else entry.meaning
            yield f"{prefix}{entry.key}", entry.kind, meaning
            if entry.inner is not None and entry.apart:
                yield from entry.inner.documented(f"{prefix}{entry.key}.")


def some(entry: Entry[T]) -> Entry[T | None]:
    """Return an entry that may be missing, which reads as None."""
    convert = entry.convert
    optional: Entry[T | None] = Entry(
        entry.check,
        entry.kind,
        entry.meaning,
        lambda value: None if value is None else convert(value),
        entry.inner,
        apart=entry.apart,
    )
    optional.optional = True
    return optional


def a_text(meaning: str) -> Entry[str]:
    """Return an entry of any text."""
    return Entry(any_text, "string", meaning, str)


def a_line(meaning: str, *, null: bool = False) -> Entry[str]:
    """Return an entry of one line that a terminal shows as it is; ``null`` lets it be null, which reads as empty."""
    check, kind = (maybe(name), "string or null") if null else (name, "string")
    return Entry(check, kind, meaning, lambda value: str(value or ""))


def a_whole(meaning: str, least: int = 0, most: int = 1 << 53) -> Entry[int]:
    """Return an entry of a whole number in an interval, ends included."""
    return Entry(whole(least, most), "whole number", meaning, int)


def a_number(meaning: str, least: float = float("-inf")) -> Entry[float]:
    """Return an entry of a finite number."""
    return Entry(number(least), "number", meaning, float)


def a_flag(meaning: str) -> Entry[bool]:
    """Return an entry that is true or false."""
    return Entry(flag, "true or false", meaning, bool)


def texts(meaning: str, check: Check = any_text) -> Entry[tuple[str, ...]]:
    """Return an entry of a list of texts; missing, it reads as empty."""
    return Entry(listed(check), "list of strings", meaning, lambda value: tuple(value or ()))


def a_table(meaning: str, check: Check | None = None) -> Entry[Mapping[str, Any]]:
    """Return an entry of an object, whose values pass a check if there is one; missing, it reads as empty."""
    return Entry(is_table if check is None else each(check), "object", meaning, lambda value: dict(value or {}))


def the_record(kind: type[R], meaning: str, *, apart: bool = True) -> Entry[R]:
    """Return an entry of one record; ``apart`` gives each of its keys a row in the documentation."""
    return Entry(is_table, "object", meaning, lambda value: kind(value or {}), kind, apart=apart)


def records_of(kind: type[R], meaning: str) -> Entry[tuple[R, ...]]:
    """Return an entry of a list of records; missing, it reads as empty."""

    def check(value: Any) -> bool:
        return listed(lambda item: is_table(item) and kind.wrong(item) is None)(value)

    return Entry(check, "list of objects", meaning, lambda value: tuple(kind(item) for item in value or ()), kind)


def whatever(check: Check, kind: str, meaning: str) -> Entry[Any]:
    """Return an entry of a kind of its own, read as it is."""
    return Entry(check, kind, meaning, lambda value: value)
