"""LLaMA-Factory's ``dataset_info.json``: a folder's data sets by name (layer L1).

EasyCL, which builds on it, has a data set for each split (``agnews``, ``agnews_dev``, ``agnews_test``), labels in
``dataset_options.json`` and orders of tasks in ``benchmark_info.json``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clora_cli.base.errors import DataError, did_you_mean
from clora_cli.data.findings import few
from clora_cli.data.readers import read_json

__all__ = [
    "ELSEWHERE",
    "REGISTRY",
    "TRAIN",
    "Entry",
    "entries_in",
    "entry_of",
    "file_of",
    "gone_of",
    "names_beside",
    "order_of",
    "orders_beside",
    "others_of",
    "read_object",
]

REGISTRY = "dataset_info.json"
ELSEWHERE = ("hf_hub_url", "ms_hub_url", "om_hub_url", "cloud_file_name", "script_url")
TRAIN = "_train"  # the ending of a training set's name, if it has one
_BENCHMARKS = "benchmark_info.json"
_SPLITS = {
    "dev": ("dev", "val", "valid", "validation", "eval"),
    "test": ("test",),
}  # endings of a data set's other splits


@dataclass(frozen=True, slots=True)
class Entry:
    """One data set of a registry.

    Attributes:
        registry: The file.
        name: The data set's name in it.
        described: Its entry in the file.
    """

    registry: Path
    name: str
    described: Mapping[str, Any]


def entry_of(path: Path) -> Entry | None:
    """Return the data set that a path names: a name below a folder with a registry, a listed file, or the only data set.

    Raises:
        DataError: A folder's registry has several data sets and the path does not say which, or there is no such path but a registry
            beside it that cannot be read.
    """
    if path.name == REGISTRY and path.is_file():
        path = path.parent
    if path.is_dir():
        entries = entries_in(path)
        if not entries:
            return _called(path.name, entries_in(path.parent))
        if any((path / marker).is_file() for marker in ("state.json", "dataset_dict.json")):
            return None
        others = {name for each in entries for name in others_of(each, entries).values()}
        entries = {name: entry for name, entry in entries.items() if name not in others}
        if len(entries) > 1:
            names = few(str(path / name) for name in sorted(entries))
            raise DataError(
                f"{path}: its {REGISTRY} names {len(entries)} data sets; give one of {names}", code="several-data-sets"
            )
        return next(iter(entries.values()))
    if not path.is_file():
        return _called(path.name, entries_in(path.parent, strict=True))
    entries = entries_in(path.parent)
    described = [entry for entry in entries.values() if file_of(entry) == path]
    return described[0] if len(described) == 1 else None


def _called(name: str, entries: Mapping[str, Entry]) -> Entry | None:
    """Return the data set of a name; a training set goes by its task's name, too."""
    return entries.get(name) or entries.get(f"{name}{TRAIN}")


def order_of(path: Path) -> tuple[str, ...] | None:
    """Return the tasks of an order that a folder's ``benchmark_info.json`` names, as ``--data`` takes them: ``FOLDER/ORDER``.

    Raises:
        DataError: If the file has several benchmarks with an order of that name, or the order is no list of names of
            data sets that are here.
    """
    registry = path.parent / _BENCHMARKS
    found = [orders[path.name] for orders in _orders_in(registry) if path.name in orders]
    if len(found) > 1:
        raise DataError(f"{registry}: several benchmarks have an order '{path.name}'; keep one", code="order-ambiguous")
    if not found:
        return None
    if not (isinstance(found[0], list) and found[0] and all(map(_is_name, found[0]))):
        raise DataError(
            f"{registry}: order '{path.name}' must be a list of data sets' names; mend it", code="order-malformed"
        )
    _check_order(registry, path.name, found[0])
    return tuple(str(path.parent / name) for name in found[0])


def orders_beside(path: Path) -> list[str]:
    """Return the orders that the ``benchmark_info.json`` in a path's folder names."""
    return [name for orders in _orders_in(path.parent / _BENCHMARKS) for name in orders]


def _orders_in(registry: Path) -> list[Mapping[str, Any]]:
    """Return the orders of each benchmark in a file; none if there is no such file."""
    try:
        content = read_object(registry) if registry.is_file() else {}
    except OSError:  # what is no path at all names no order either
        return []
    benchmarks = [each.get("orders") for each in content.values() if isinstance(each, dict)]
    return [orders for orders in benchmarks if isinstance(orders, dict)]


def _check_order(registry: Path, order: str, names: Sequence[str]) -> None:
    entries = entries_in(registry.parent)
    gone = [name for name in names if not (_called(name, entries) or (registry.parent / name).exists())]
    if gone:
        raise DataError(
            f"{registry}: order '{order}' names '{gone[0]}', and {REGISTRY} has no such data set"
            f"{did_you_mean(gone[0], entries)}",
            code="order-malformed",
        )


def entries_in(folder: Path, strict: bool = False) -> dict[str, Entry]:
    """Return a folder's data sets by name; of a file that is not a registry none, or its error if ``strict``."""
    registry = folder / REGISTRY
    if not registry.is_file():
        return {}
    try:
        content = read_json(registry)
    except DataError:
        if strict:
            raise
        return {}  # not a registry: the folder is read without it
    if not isinstance(content, dict):
        return {}
    keys = {"file_name", *ELSEWHERE}
    return {
        name: Entry(registry, name, described)
        for name, described in content.items()
        if isinstance(described, dict) and keys & set(described)
    }


def file_of(entry: Entry) -> Path | None:
    """Return the file or folder of a data set's rows; None if it is not here."""
    name = entry.described.get("file_name")
    path = entry.registry.parent / name if isinstance(name, str) else None
    return path if path and path.exists() else None


def _is_name(value: object) -> bool:
    """Whether a value can be a data set's name, which leads to no other folder."""
    return isinstance(value, str) and value.strip() not in ("", ".", "..") and not {"/", "\\"} & set(value)


def others_of(name: str, entries: Mapping[str, Entry]) -> dict[str, str]:
    """Return the data sets that hold a training set's other splits: those of its name with an ending, whose files are here."""
    return {split: here[0] for split, listed in _named(name, entries).items() if (here := _here(listed, entries))}


def _named(name: str, entries: Mapping[str, Entry]) -> dict[str, list[str]]:
    """Return the data sets of a training set's name with an ending, by split, whether their files are here or not."""
    stem = name.removesuffix(TRAIN)
    candidates = {split: [f"{stem}_{ending}" for ending in endings] for split, endings in _SPLITS.items()}
    return {split: [each for each in names if each in entries] for split, names in candidates.items()}


def _here(names: Sequence[str], entries: Mapping[str, Entry]) -> list[str]:
    return [name for name in names if file_of(entries[name])]


def gone_of(name: str, entries: Mapping[str, Entry]) -> list[str]:
    """Return notes on splits that the registry lists and that are not used: their rows are not here, or others serve."""
    notes = []
    for split, names in _named(name, entries).items():
        here = _here(names, entries)
        gone = names[:1] if names and not here else []
        notes += [f"'{each}' of {REGISTRY} is not used: its rows are not in this folder" for each in gone]
        notes += [f"'{each}' of {REGISTRY} is not used: {split} is '{here[0]}'" for each in here[1:]]
    return notes


def names_beside(path: Path) -> str:
    """Return which data sets the registry in a path's folder names, as the end of a sentence; empty if there is none."""
    names = sorted(entries_in(path.parent))
    return f", whose {REGISTRY} names {few(names)}{did_you_mean(path.name, names)}" if names else ""


def read_object(path: Path) -> Mapping[str, Any]:
    """Return the content of a JSON file that must be an object.

    Raises:
        DataError: If it cannot be read, or is something else.
    """
    content = read_json(path)
    if not isinstance(content, dict):
        raise DataError(f"{path}: expected an object of names; mend it", code="registry-malformed")
    return content
