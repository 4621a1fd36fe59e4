"""Checks of the values of records read from disk (layer L0): by key; the first wrong key is named."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from clora_cli.base.legible import is_legible

__all__ = [
    "Check",
    "any_text",
    "each",
    "flag",
    "is_table",
    "listed",
    "made_of",
    "maybe",
    "name",
    "number",
    "one_of",
    "scalar",
    "whole",
    "wrong",
]

Check = Callable[[Any], bool]
_MOST = 1 << 53  # whole numbers that every program holds exactly


def wrong(entry: Mapping[str, Any], wanted: Mapping[str, Check]) -> str | None:
    """Return the first key of a record that is missing or has a wrong value; None if there is none.

    Args:
        entry: A JSON object.
        wanted: Key to check, in order; ``outer.inner`` for a key of an object that was itself checked before; a key that may
            be missing ends in ``?``.
    """
    for path, check in wanted.items():
        if path.isidentifier() and path in entry and check(entry[path]):  # as most do, of which a package has thousands
            continue
        place, optional = path.removesuffix("?"), path.endswith("?")
        *outer, key = place.split(".")
        inside: Any = entry
        for step in outer:
            inside = inside.get(step) if isinstance(inside, Mapping) else None
        if not isinstance(inside, Mapping) or key not in inside:
            if not optional:
                return place
        elif not check(inside[key]):
            return place
    return None


def any_text(value: Any) -> bool:
    """Tell whether a value is a string."""
    return isinstance(value, str)


def name(value: Any) -> bool:
    """Tell whether a value is a string of one line without hidden characters."""
    return isinstance(value, str) and is_legible(value)


def flag(value: Any) -> bool:
    """Tell whether a value is true or false."""
    return isinstance(value, bool)


def whole(least: int = 0, most: int = _MOST) -> Check:
    """Return a check for whole numbers in an interval, ends included."""
    return lambda value: isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def number(least: float = -math.inf, most: float = math.inf) -> Check:
    """Return a check for finite numbers in an interval, ends included."""

    def check(value: Any) -> bool:
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return is_number and least <= value <= most and math.isfinite(value)

    return check


def one_of(*values: Any) -> Check:
    """Return a check for one of these values, of the same type."""
    return lambda value: any(type(value) is type(allowed) and value == allowed for allowed in values)


def scalar(value: Any) -> bool:
    """Tell whether a value is a string, a number, true, false or null."""
    return value is None or isinstance(value, (str, int, float))


def maybe(check: Check) -> Check:
    """Return a check that also lets null pass."""
    return lambda value: value is None or check(value)


def listed(check: Check) -> Check:
    """Return a check for lists of such values."""
    return lambda value: isinstance(value, list) and all(map(check, value))


def each(check: Check) -> Check:
    """Return a check for objects of such values under legible keys."""
    return lambda value: isinstance(value, Mapping) and all(map(name, value)) and all(map(check, value.values()))


def made_of(wanted: Mapping[str, Check]) -> Check:
    """Return a check for objects whose keys pass checks, given as for ``wrong``."""
    return lambda value: isinstance(value, Mapping) and wrong(value, wanted) is None


def is_table(value: Any) -> bool:
    """Tell whether a value is an object."""
    return type(value) is dict or isinstance(value, Mapping)  # the first is much faster
