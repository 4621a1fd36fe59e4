"""Recognise train, dev and test among the names of files, folders and splits (layer L1)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

__all__ = ["Split", "Twofold", "are_parts", "choose_splits", "missing_parts", "split_of", "told"]

# Of several words of one kind, earlier ones win.
_WORDS = {
    "train": ("train", "training", "trn"),
    "dev": ("dev", "validation", "valid", "val", "eval", "evaluation", "devel", "development"),
    "test": ("test", "testing", "tests", "tst", "heldout", "held_out", "holdout", "hold_out"),
}
# Words that may be joined to a split's: trainset, testdata.
_WORDS = {
    kind: (*words, *(word + what for word in words if "_" not in word for what in ("set", "data")))
    for kind, words in _WORDS.items()
}
_KIND = {word: kind for kind, words in _WORDS.items() for word in words}
_PART = re.compile(
    r"(?P<name>.*?[^\W\d_])"  # up to a letter
    r"(?P<part>[-_. ]*\(?(?:(?<![^\W\d_])(?:part|shard|chunk)[-_. ]*)?\d+(?:[-_.]\d+)*\)?"
    r"(?P<whole>[-_. ]*of[-_. ]*\d+)?(?:-[0-9a-f]{8,})?)?"
)


class Twofold(Exception):  # noqa: N818  # the callers turn it into an error with advice
    """Two names stand for one split, and neither has precedence."""


@dataclass(frozen=True, slots=True)
class Split:
    """What a name says about a split.

    Attributes:
        kind: ``train``, ``dev`` or ``test``.
        word: The word that says so.
        variant: The rest of the name, such as ``matched``; empty for a plain name.
        before: Whether that rest comes before the word, as a data set's name does.
        part: Whether it is a numbered part.
        of: Whether the number includes the total.
    """

    kind: str
    word: str
    variant: str = ""
    before: bool = False
    part: bool = False
    of: bool = False


def split_of(name: str) -> Split | None:
    """Return what a name without its ending says about a split: ``val``, ``train_0``, ``test_matched``, ``reviews-train``.

    ``None`` if it says nothing.
    """
    match = _PART.fullmatch(name.strip().casefold())
    if not match:
        return None
    part, of = bool(match["part"]), bool(match["whole"])
    words = re.sub(r"[-_. ]+", "_", match["name"])
    for kind, known in _WORDS.items():
        for word in known:
            if words == word:
                return Split(kind, word, part=part, of=of)
    first, _, rest = words.partition("_")
    if first in _KIND:
        return Split(_KIND[first], first, rest, part=part, of=of)
    rest, _, last = words.rpartition("_")
    return Split(_KIND[last], last, rest, True, part, of) if last in _KIND else None


def choose_splits(names: Iterable[str]) -> tuple[dict[str, list[str]], list[str]]:
    """Choose the names that are train, dev and test.

    The plain name of a kind, or its numbered parts together, wins. Without one, the names with a variant (``test_matched``,
    ``test_mismatched``) together are the split.

    Args:
        names: Without endings.

    Returns:
        Kind to names, in the order given, and the names that are left.

    Raises:
        Twofold: There are a whole split and parts of it, or splits of two data sets.
    """
    found: dict[str, dict[str, Split]] = {}
    unknown = []
    for name in names:
        if (split := split_of(name)) is None:
            unknown.append(name)
        else:
            found.setdefault(split.kind, {})[name] = split
    chosen = {kind: _one(kind, splits) for kind, splits in found.items()}
    left = [name for kind, splits in found.items() for name in splits if name not in chosen[kind]]
    return chosen, left + unknown


def _one(kind: str, splits: Mapping[str, Split]) -> list[str]:
    plain = {name: split for name, split in splits.items() if not split.variant}
    if not plain:
        sets = {split.variant: name for name, split in splits.items() if split.before}
        if len(sets) > 1:
            raise Twofold(f"{' and '.join(list(sets.values())[:2])} both hold {kind}")
        return list(splits)
    word = min((split.word for split in plain.values()), key=_WORDS[kind].index)
    taken = [name for name, split in plain.items() if split.word == word]
    whole = [name for name in taken if not plain[name].part]
    if len(whole) > 1:
        raise Twofold(f"{whole[0]} and {whole[1]} both hold {kind}")
    if len({plain[name].part for name in taken}) > 1:
        part = next(name for name in taken if plain[name].part)
        raise Twofold(f"{whole[0]} and {part} both hold {kind}")
    return taken


def are_parts(names: Iterable[str]) -> bool:
    """Whether names differ only in their numbers, like those of a data set's parts: ``part-0001``, ``0000``."""
    names = list(names)
    return all(re.search(r"\d", name) for name in names) and len({re.sub(r"\d+", "#", name) for name in names}) == 1


def told(kind: str, sizes: Mapping[str, int]) -> str:
    """Return a note on a split made of other names than the plain one; empty if their numbers show that they belong together.

    Args:
        kind: The split.
        sizes: Name to rows.
    """
    named = ", ".join(f"{name} ({rows} rows)" for name, rows in sizes.items())
    splits = [split for name in sizes if (split := split_of(name))]
    plain = not any(split.variant for split in splits) and (len(sizes) < 2 or all(split.of for split in splits))
    return "" if plain else f"{kind} is {named}"


def missing_parts(names: Sequence[str]) -> str:
    """Return a note if numbered parts are missing, as when only 1 and 3 of 3 are there; else empty."""
    numbers = [re.search(r"(\d+)[-_. ]*of[-_. ]*(\d+)", name) for name in names]
    totals = {int(match[2]) for match in numbers if match}
    if len(totals) != 1 or not all(numbers) or len(names) >= (total := totals.pop()):
        return ""
    return f"{names[0]}: only {len(names)} of its {total} parts are here"
