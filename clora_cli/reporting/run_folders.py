"""What the folders of a run say: ``<root>/<name>/seed-<n>/…``, as ``clora run`` lays them out."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from clora_cli.base.legible import legible

__all__ = ["NOWHERE", "Place", "place"]

_SEED = re.compile(r"seed-([0-9]{1,18})")


@dataclass(frozen=True)
class Place:
    """Where a run lies.

    Attributes:
        root: The folder that holds the runs, ``""`` where the path does not tell.
        name: What the run is called there: its method, or a variant of it; ``""`` likewise.
        seed: Its seed; None likewise.
    """

    root: str
    name: str
    seed: int | None


NOWHERE = Place("", "", None)


def place(path: str | Path) -> Place:
    """Return what a path inside a run's folder says.

    Example:
        >>> place("out/order1/n-lora/seed-7/scores/3.json")
        Place(root='out/order1', name='n-lora', seed=7)
    """
    parts = Path(path).parts
    for index in range(len(parts) - 1, 0, -1):
        if found := _SEED.fullmatch(parts[index]):
            return Place(legible(str(Path(*parts[: index - 1]))), legible(parts[index - 1]), int(found[1]))
    return NOWHERE
