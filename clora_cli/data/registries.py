"""LLaMA-Factory's ``dataset_info.json``: a folder's data sets by name, each with its file, columns and tags (layer L1)."""

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

__all__ = ["Entry", "entry_of", "read_entry"]

REGISTRY = "dataset_info.json"
_ELSEWHERE = ("hf_hub_url", "ms_hub_url", "om_hub_url", "cloud_file_name", "script_url")
_UNREAD = {"subset", "split", "folder"}
# Its names of columns, and the roles that they play; their defaults are those of its two formats.
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
        described: What stands there.
    """

    registry: Path
    name: str
    described: Mapping[str, Any]


def entry_of(path: Path) -> Entry | None:
    """Return the data set that a path stands for: a name below a folder with a registry, a file of it, or its only one.

    Raises:
        DataError: A folder's registry has several data sets and nothing says which.
    """
    if path.name == REGISTRY and path.is_file():
        path = path.parent
    if path.is_dir():
        entries = _entries(path)
        if not entries or any((path / marker).is_file() for marker in ("state.json", "dataset_dict.json")):
            return None
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


def read_entry(entry: Entry, columns: Mapping[str, str] | None = None) -> Draft:
    """Return the draft of a data set, its columns and tags as its registry names them.

    Args:
        entry: The data set.
        columns: Role to column name, which count before the registry's.

    Raises:
        DataError: It is not on this machine, or cannot be read as it is described.
    """
    where = f"{entry.registry}, '{entry.name}'"
    path = _file(entry)
    if path is None:
        places = (f"{key} {entry.described[key]}" for key in ("file_name", *_ELSEWHERE) if key in entry.described)
        place = next(places, "no file_name")
        raise DataError(
            f"{where}: its rows are not in this folder ({place}); give a Hub id or the file itself as --data",
            code="registry-rows-missing",
        )
    notes = [f"columns are read as {REGISTRY} names them"]
    paths = sorted(path for each in split_files(path).values() for path in each) if path.is_dir() else [path]
    rows = [row for each in paths for row in read_records(each, notes)]
    sharegpt = entry.described.get("formatting", "alpaca") == "sharegpt"
    named = _columns(entry, rows, sharegpt) | dict(columns or {})
    if sharegpt and "conversations" in named:
        rows = _retagged(rows, named["conversations"], entry.described.get("tags") or {})
    if unread := sorted(_UNREAD & {key for key, value in entry.described.items() if value}):
        notes.append(f"{REGISTRY} names what is not read: {', '.join(f'{k} {entry.described[k]}' for k in unread)}")
    if limit := entry.described.get("num_samples"):
        notes.append(f"{REGISTRY} asks for {limit} samples; all {len(rows)} rows are read, --train-rows takes fewer")
    return draft_of(task_name(entry.name), f"{REGISTRY} {entry.name}", {"train": rows}, named, notes)


def _entries(folder: Path) -> dict[str, Entry]:
    registry = folder / REGISTRY
    if not registry.is_file():
        return {}
    try:
        content = read_json(registry)
    except DataError:
        return {}  # no registry then: whatever else the folder holds is read without it
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
    """Role to column: those that the entry names, and of the format's own those that are there."""
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
    """Rows whose turns have the names that are known everywhere, instead of those that ``tags`` give."""
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
