"""LLaMA-Factory's ``dataset_info.json``: a folder's data sets by name, each with its file, columns and tags (layer L1).

EasyCL, which builds on it, has a data set for each split (``agnews``, ``agnews_dev``, ``agnews_test``), labels in
``dataset_options.json`` and orders of tasks in ``benchmark_info.json``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from clora_cli.base.errors import DataError
from clora_cli.data.columns import draft_of
from clora_cli.data.findings import few
from clora_cli.data.folders import split_files
from clora_cli.data.formats import ROLES
from clora_cli.data.layouts import task_name
from clora_cli.data.readers import Record, read_json, read_records
from clora_cli.data.splits import Draft
from clora_cli.data.texts import bare

__all__ = ["Entry", "entry_of", "order_of", "read_entry"]

REGISTRY = "dataset_info.json"
_OPTIONS, _BENCHMARKS = "dataset_options.json", "benchmark_info.json"
_SPLITS = {
    "dev": ("dev", "val", "valid", "validation", "eval"),
    "test": ("test",),
}  # endings of a data set's other splits
_TRAIN = "_train"
_ELSEWHERE = ("hf_hub_url", "ms_hub_url", "om_hub_url", "cloud_file_name", "script_url")
_UNREAD = {"subset", "split", "folder"}
# Its names for columns, and their roles; the defaults are those of its two formats.
_ALPACA = {"prompt": "instruction", "query": "input", "response": "output"}
_SHARED = {"history": "history", "system": "system", "tools": "tools", "kto_tag": "verdict", "chosen": "chosen",
           "rejected": "rejected"}  # fmt: skip
_TAGS = {"role_tag": "from", "content_tag": "value", "user_tag": "human", "assistant_tag": "gpt",
         "observation_tag": "observation", "function_tag": "function_call", "system_tag": "system"}  # fmt: skip
_MEANT = {"user_tag": "user", "assistant_tag": "assistant", "observation_tag": "observation",
          "function_tag": "function_call", "system_tag": "system"}  # fmt: skip


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
        DataError: A folder's registry has several data sets and the path does not say which.
    """
    if path.name == REGISTRY and path.is_file():
        path = path.parent
    if path.is_dir():
        entries = _entries(path)
        if not entries:
            return _entries(path.parent).get(path.name)
        if any((path / marker).is_file() for marker in ("state.json", "dataset_dict.json")):
            return None
        others = {name for each in entries for name in _others(each, entries).values()}
        entries = {name: entry for name, entry in entries.items() if name not in others}
        if len(entries) > 1:
            names = few(str(path / name) for name in sorted(entries))
            raise DataError(
                f"{path}: its {REGISTRY} names {len(entries)} data sets; give one of {names}", code="several-data-sets"
            )
        return next(iter(entries.values()))
    entries = _entries(path.parent)
    if not path.is_file():
        return entries.get(path.name)
    described = [entry for entry in entries.values() if _file(entry) == path]
    return described[0] if len(described) == 1 else None


def order_of(path: Path) -> tuple[str, ...] | None:
    """Return the tasks of an order that a folder's ``benchmark_info.json`` names, as ``--data`` takes them: ``FOLDER/ORDER``.

    Raises:
        DataError: If the file has several benchmarks with an order of that name.
    """
    registry = path.parent / _BENCHMARKS
    try:
        content = _object(registry) if registry.is_file() else {}
    except OSError:  # what is no path at all names no order either
        return None
    benchmarks = [each.get("orders") for each in content.values() if isinstance(each, dict)]
    found = [orders[path.name] for orders in benchmarks if isinstance(orders, dict) and path.name in orders]
    if len(found) > 1:
        raise DataError(f"{registry}: several benchmarks have an order '{path.name}'; keep one", code="order-ambiguous")
    names = [name for name in found[0] if isinstance(name, str)] if found and isinstance(found[0], list) else []
    return tuple(str(path.parent / name) for name in names) or None


def read_entry(entry: Entry, columns: Mapping[str, str] | None = None) -> Draft:
    """Return the draft of a data set, its columns and tags as its registry names them, with its other splits and its labels.

    Args:
        entry: The data set.
        columns: Role to column name, which override the registry's.

    Raises:
        DataError: It is not on this machine, or cannot be read as it is described.
    """
    notes = [f"columns are read as {REGISTRY} names them"]
    entries = _entries(entry.registry.parent)
    others = {split: entries[name] for split, name in _others(entry.name, entries).items()}
    rows, named = _rows(entry, columns, notes)
    splits = {"train": rows} | {split: _rows(other, columns, notes)[0] for split, other in others.items()}
    notes += [f"{split} is '{other.name}' of {REGISTRY}" for split, other in others.items()]
    name = entry.name.removesuffix(_TRAIN) if others else entry.name
    draft = draft_of(task_name(name), f"{REGISTRY} {name}", splits, named, notes)
    if labels := _labels(entry.registry.parent, name):
        draft = replace(draft, labels=labels, labels_from=_OPTIONS, closed=True, metric="exact-match")
    return draft


def _others(name: str, entries: Mapping[str, Entry]) -> dict[str, str]:
    """Return the data sets that hold a training set's other splits: those of its name with an ending, whose files are here."""
    stem = name.removesuffix(_TRAIN)
    found = {}
    for split, endings in _SPLITS.items():
        candidates = (f"{stem}_{ending}" for ending in endings)
        if other := next((each for each in candidates if each in entries and _file(entries[each])), None):
            found[split] = other
    return found


def _labels(folder: Path, name: str) -> tuple[str, ...]:
    """Return the labels that ``dataset_options.json`` gives a data set, in its folder or up to two above it."""
    for place in (folder, *list(folder.resolve().parents)[:2]):
        described = _object(place / _OPTIONS).get(name) if (place / _OPTIONS).is_file() else None
        if isinstance(described, dict) and isinstance(described.get("options"), list):
            return tuple(dict.fromkeys(str(label).strip() for label in described["options"]))
    return ()


def _object(path: Path) -> Mapping[str, Any]:
    content = read_json(path)
    if not isinstance(content, dict):
        raise DataError(f"{path}: expected an object of names; mend it", code="registry-malformed")
    return content


def _rows(entry: Entry, columns: Mapping[str, str] | None, notes: list[str]) -> tuple[list[Record], dict[str, str]]:
    """Return the rows of one data set and its roles' columns."""
    where = f"{entry.registry}, '{entry.name}'"
    path = _file(entry)
    if path is None:
        places = (f"{key} {entry.described[key]}" for key in ("file_name", *_ELSEWHERE) if key in entry.described)
        place = next(places, "no file_name")
        raise DataError(
            f"{where}: its rows are not in this folder ({place}); give a Hub id or the file itself as --data",
            code="registry-rows-missing",
        )
    paths = sorted(path for each in split_files(path).values() for path in each) if path.is_dir() else [path]
    rows = [row for each in paths for row in read_records(each, notes)]
    sharegpt = entry.described.get("formatting", "alpaca") == "sharegpt"
    named = _columns(entry, rows, sharegpt) | dict(columns or {})
    if sharegpt and "conversations" in named:
        rows = _retagged(rows, named["conversations"], entry.described.get("tags") or {})
    if unread := sorted(key for key in _UNREAD if entry.described.get(key) and not _is_ending(entry, key)):
        notes.append(f"{REGISTRY} names what is not read: {', '.join(f'{k} {entry.described[k]}' for k in unread)}")
    if limit := entry.described.get("num_samples"):
        notes.append(f"{REGISTRY} asks for {limit} samples; all {len(rows)} rows are read, --train-rows takes fewer")
    return rows, named


def _is_ending(entry: Entry, key: str) -> bool:
    """Whether ``split`` says no more than what the file's name says: of ``agnews_dev.json`` that it is dev."""
    split = str(entry.described[key])
    return key == "split" and (path := _file(entry)) is not None and bare(path).endswith(f"_{split}")


def _entries(folder: Path) -> dict[str, Entry]:
    registry = folder / REGISTRY
    if not registry.is_file():
        return {}
    try:
        content = read_json(registry)
    except DataError:
        return {}  # not a registry: the folder is read without it
    if not isinstance(content, dict):
        return {}
    keys = {"file_name", *_ELSEWHERE}
    return {
        name: Entry(registry, name, described)
        for name, described in content.items()
        if isinstance(described, dict) and keys & set(described)
    }


def _file(entry: Entry) -> Path | None:
    name = entry.described.get("file_name")
    path = entry.registry.parent / name if isinstance(name, str) else None
    return path if path and path.exists() else None


def _columns(entry: Entry, rows: list[Record], sharegpt: bool) -> dict[str, str]:
    """Role to column: those that the entry names, and the format's own where they exist."""
    there = {column for row in rows for column in row.values}
    given = entry.described.get("columns") or {}
    if not isinstance(given, dict) or not all(isinstance(column, str) for column in given.values()):
        raise DataError(
            f"{entry.registry}, '{entry.name}': columns is no object of names; mend it",
            code="registry-columns-malformed",
        )
    roles = {"messages": "conversations", **_SHARED} if sharegpt else _ALPACA | _SHARED
    needed = ("messages",) if sharegpt else ("prompt", "response")
    if gone := next((given[key] for key in needed if key in given and given[key] not in there), None):
        raise DataError(
            f"{entry.registry}, '{entry.name}': no column '{gone}' in its rows, which have {few(sorted(there))}; mend it",
            code="column-missing",
        )
    named = {roles[key]: column for key, column in given.items() if key in roles and column in there}
    if sharegpt:
        named.setdefault("conversations", "conversations")
    else:
        named = {role: role for role in ("instruction", "input", "output") if role in there} | named
    ranked = bool(entry.described.get("ranking")) or "chosen" in named
    kept = named if ranked else {role: column for role, column in named.items() if role not in ("chosen", "rejected")}
    return {role: column for role, column in kept.items() if role in ROLES and not (ranked and role == "output")}


def _retagged(rows: list[Record], column: str, tags: Mapping[str, str]) -> list[Record]:
    """Rows whose turns have the usual names instead of those in ``tags``."""
    tags = _TAGS | dict(tags)
    roles = {str(tags[tag]): meant for tag, meant in _MEANT.items()}

    def turn(value: Any) -> Any:
        if not isinstance(value, dict) or tags["role_tag"] not in value:
            return value
        rest = {key: kept for key, kept in value.items() if key not in (tags["role_tag"], tags["content_tag"])}
        role = str(value[tags["role_tag"]])
        return {"role": roles.get(role, role), "content": value.get(tags["content_tag"]), **rest}

    def turns(value: Any) -> Any:
        return [turn(each) for each in value] if isinstance(value, list) else value

    columns = (column, "chosen", "rejected")
    changed = [{key: turns(cell) if key in columns else cell for key, cell in row.values.items()} for row in rows]
    return [replace(row, values=values) for row, values in zip(rows, changed, strict=True)]
