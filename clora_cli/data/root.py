"""Finding a task under ``$CLORA_DATA`` by its name (layer L1).

Only names of folders and files are read, so that listing tasks stays cheap.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from clora_cli.base.intake import named_path
from clora_cli.data.known_tasks import KnownTask, canonical, fold
from clora_cli.data.readers import is_readable
from clora_cli.data.split_names import split_of
from clora_cli.data.texts import bare

__all__ = ["data_root", "find", "holds_task", "index"]

_DEPTH = 5  # root/CL_Benchmark/Type/Dataset is 3; the rest is for a checkout inside a checkout


def data_root() -> Path | None:
    """Return the folder that ``CLORA_DATA`` names, or ``None`` if it is not set; it may not exist."""
    value = os.environ.get("CLORA_DATA", "").strip()
    return named_path(value) if value else None


def find(root: Path, name: str, known: KnownTask | None = None) -> list[Path]:
    """Return the folders and files under ``root`` that hold a task, the likeliest first.

    A path below the root is taken as it is. Otherwise names are compared in the spelling of :func:`index`; a folder
    under its task type comes before one of the same name elsewhere.
    """
    below = root / name
    if not Path(name).is_absolute() and ".." not in Path(name).parts and holds_task(below):
        return [below]
    kind, _, leaf = name.rpartition("/")
    paths = index(root).get(_key(known.name if known else leaf), [])
    if kind and not known:
        paths = [path for path in paths if path.parent.name.casefold() == kind.rpartition("/")[2].casefold()]
    family = known.family.casefold() if known else ""
    return sorted(paths, key=lambda path: (path.parent.name.casefold() != family, str(path)))


def holds_task(path: Path) -> bool:
    """Whether a path is a file, or a folder with split files in it or in its ``data/``."""
    return path.is_file() or _holds_splits(path) or _holds_splits(path / "data")


def index(root: Path) -> dict[str, list[Path]]:
    """Return the task folders and data files under ``root`` by their folded names."""
    found: dict[str, list[Path]] = {}
    _walk(root, _DEPTH, found)
    return found


def _walk(folder: Path, depth: int, found: dict[str, list[Path]]) -> None:
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:
        return  # a folder that cannot be listed holds nothing that could be loaded
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            if _holds_splits(Path(entry.path)):
                found.setdefault(_key(entry.name), []).append(Path(entry.path))
            elif depth:
                _walk(Path(entry.path), depth - 1, found)
        elif is_readable(Path(entry.name)):
            found.setdefault(_key(bare(Path(entry.name))), []).append(Path(entry.path))


def _holds_splits(folder: Path) -> bool:
    try:
        names = [entry.name for entry in os.scandir(folder)]
    except OSError:
        return False
    splits = (split_of(bare(Path(name))) for name in names if is_readable(Path(name)))
    return any(split and not split.before for split in splits)


def _key(name: str) -> str:
    """Return the key under which a name is looked up: a known task's name, ``task`` and its number, or the folded name."""
    known = canonical(name)
    if known:
        return known.name
    number = re.match(r"task0*(\d+)(_|$)", name.casefold())
    return f"task{number[1]}" if number else fold(name)
