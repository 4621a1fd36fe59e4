"""The page of the claims: its filled parts, and the rows that stand in them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise

__all__ = ["fill", "rows_of", "seeds_of"]

_SEEDS = re.compile(r", (\d+) seeds$")


def _part(name: str) -> str:
    return rf"(<!-- filled: {name} -->\n)(.*?)(<!-- end -->)"


def fill(page: str, parts: Mapping[str, Iterable[str]]) -> str:
    """Return a page with new lines between the comments of each part.

    Raises:
        SystemExit: If the page has no such comments.
    """
    for name, lines in parts.items():
        if not re.search(_part(name), page, re.DOTALL):
            raise SystemExit(f"the page has no lines '<!-- filled: {name} -->' and '<!-- end -->'; add them")
        text = "".join(f"{line}\n" for line in lines)
        page = re.sub(_part(name), lambda found, text=text: found[1] + text + found[3], page, count=1, flags=re.DOTALL)
    return page


def rows_of(page: str, name: str) -> Iterator[tuple[str, ...]]:
    """Yield the cells of each row of a part's tables, headings left out."""
    found = re.search(_part(name), page, re.DOTALL)
    lines = [*found[2].splitlines(), ""] if found else []
    for line, after in pairwise(lines):
        if line.startswith("| ") and not after.startswith("|---"):
            yield tuple(line[2:-2].split(" | "))


def seeds_of(told: str) -> int:
    """Return of how many seeds a measurement is, by the text that tells it."""
    found = _SEEDS.search(told)
    return int(found[1]) if found else 1
