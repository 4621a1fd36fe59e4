"""Rows of a data set as LLaMA-Factory's ``dataset_info.json`` describes them: their file, columns and tags (layer L1)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from os.path import normpath
from pathlib import Path
from typing import Any

from clora_cli.base.errors import DataError
from clora_cli.data.columns import draft_of
from clora_cli.data.findings import few
from clora_cli.data.folders import split_files
from clora_cli.data.layouts import task_name
from clora_cli.data.readers import Record, read_records
from clora_cli.data.registry_names import (
    ELSEWHERE,
    REGISTRY,
    TRAIN,
    Entry,
    entries_in,
    file_of,
    gone_of,
    others_of,
    read_object,
)
from clora_cli.data.roles import ROLES
from clora_cli.data.splits import Draft
from clora_cli.data.texts import bare

__all__ = ["read_entry"]

_OPTIONS = "dataset_options.json"
_UNREAD = {"subset", "split", "folder"}
# Its names for columns, and their roles; the defaults are those of its two formats.
_ALPACA = {"prompt": "instruction", "query": "input", "response": "output"}
_SHARED = {"history": "history", "system": "system", "tools": "tools", "kto_tag": "verdict", "chosen": "chosen",
           "rejected": "rejected"}  # fmt: skip
_KEYS = {"messages", "images", "videos", "audios", *_ALPACA, *_SHARED}
_TAGS = {"role_tag": "from", "content_tag": "value", "user_tag": "human", "assistant_tag": "gpt",
         "observation_tag": "observation", "function_tag": "function_call", "system_tag": "system"}  # fmt: skip
_MEANT = {"user_tag": "user", "assistant_tag": "assistant", "observation_tag": "observation",
          "function_tag": "function_call", "system_tag": "system"}  # fmt: skip


def read_entry(entry: Entry, columns: Mapping[str, str] | None = None) -> Draft:
    """Return the draft of a data set, its columns and tags as its registry names them, with its other splits and its labels.

    Args:
        entry: The data set.
        columns: Role to column name, which override the registry's.

    Raises:
        DataError: It is not on this machine, or cannot be read as it is described.
    """
    notes = [f"columns are read as {REGISTRY} names them"]
    entries = entries_in(entry.registry.parent)
    others = {split: entries[name] for split, name in others_of(entry.name, entries).items()}
    rows, named = _rows(entry, columns, notes)
    splits = {"train": rows}
    for split, other in others.items():
        splits[split], named = _alike(entry, other, named, *_rows(other, columns, notes))
    notes += [f"{split} is '{other.name}' of {REGISTRY}" for split, other in others.items()]
    notes += gone_of(entry.name, entries)
    name = entry.name.removesuffix(TRAIN) if others else entry.name
    draft = draft_of(task_name(name), f"{REGISTRY} {name}", splits, named, notes)
    if labels := _labels(entry.registry.parent, name):
        draft = replace(draft, labels=labels, labels_from=_OPTIONS, closed=True, metric="exact-match")
    return draft


def _labels(folder: Path, name: str) -> tuple[str, ...]:
    """Return the labels that ``dataset_options.json`` gives a data set, in its folder or up to two above it."""
    for place in (folder, *list(folder.resolve().parents)[:2]):
        described = read_object(place / _OPTIONS).get(name) if (place / _OPTIONS).is_file() else None
        if isinstance(described, dict) and "options" in described:
            labels = described["options"]
            if not isinstance(labels, list) or not all(isinstance(each, str | int | float) for each in labels):
                raise DataError(
                    f"{place / _OPTIONS}, '{name}': options is no list of labels; mend it", code="registry-malformed"
                )
            return tuple(dict.fromkeys(str(label).strip() for label in labels))
    return ()


def _alike(
    entry: Entry, other: Entry, named: dict[str, str], rows: list[Record], theirs: Mapping[str, str]
) -> tuple[list[Record], dict[str, str]]:
    """Return the rows of another split with the training set's columns, and these with what only the other has."""
    if _turns_in(entry) != _turns_in(other):
        raise DataError(
            f"{entry.registry}: '{entry.name}' and its other split '{other.name}' differ in formatting; give both one",
            code="registry-malformed",
        )
    moved = {column: named[role] for role, column in theirs.items() if named.get(role, column) != column}
    if moved:
        kept = [{key: cell for key, cell in row.values.items() if key not in moved} for row in rows]
        cells = [{to: row.values[key] for key, to in moved.items() if key in row.values} for row in rows]
        rows = [replace(row, values=one | two) for row, one, two in zip(rows, kept, cells, strict=True)]
    return rows, {**theirs, **named}


def _rows(entry: Entry, columns: Mapping[str, str] | None, notes: list[str]) -> tuple[list[Record], dict[str, str]]:
    """Return the rows of one data set and its roles' columns."""
    where = f"{entry.registry}, '{entry.name}'"
    path = file_of(entry)
    if path and not _is_below(path, entry.registry.parent):
        raise DataError(
            f"{where}: file_name {entry.described['file_name']!r} does not lead to a file below the registry's folder; "
            "give the file itself as --data",
            code="registry-file-elsewhere",
        )
    if path is None:
        places = (f"{key} {entry.described[key]}" for key in ("file_name", *ELSEWHERE) if key in entry.described)
        place = next(places, "no file_name")
        raise DataError(
            f"{where}: its rows are not in this folder ({place}); give a Hub id or the file itself as --data",
            code="registry-rows-missing",
        )
    rows = [row for each in _files(path, where, notes) for row in read_records(each, notes)]
    sharegpt = _turns_in(entry)
    named = _columns(entry, rows, sharegpt, notes) | dict(columns or {})
    if sharegpt and "conversations" in named:
        tags = _texts(entry, "tags")
        _check_tags(entry, rows, named["conversations"], tags)
        rows = _retagged(rows, named["conversations"], tags)
    if unread := sorted(key for key in _UNREAD if entry.described.get(key) and not _is_ending(entry, key)):
        notes.append(f"{REGISTRY} names what is not read: {', '.join(f'{k} {entry.described[k]}' for k in unread)}")
    if limit := entry.described.get("num_samples"):
        notes.append(f"{REGISTRY} asks for {limit} samples; all {len(rows)} rows are read, --train-rows takes fewer")
    return rows, named


def _files(path: Path, where: str, notes: list[str]) -> list[Path]:
    """Return the files of a data set: of a folder all, as LLaMA-Factory reads it, whatever splits their names speak of."""
    if not path.is_dir():
        return [path]
    files = sorted(file for each in split_files(path).values() for file in each)
    if not files:
        raise DataError(f"{where}: no file of rows lies in {path}; name the file itself", code="folder-without-splits")
    if len(files) > 1:
        notes.append(f"'{path.name}' is one data set: {few(file.name for file in files)}")
    return files


def _is_below(path: Path, folder: Path) -> bool:
    """Whether a path, as it is written, stays below a folder: a registry from elsewhere says which of its own files are rows."""
    return Path(normpath(folder)) in Path(normpath(path)).parents


def _turns_in(entry: Entry) -> bool:
    """Whether the rows are conversations."""
    named = entry.described.get("formatting", "alpaca")
    if named not in ("alpaca", "sharegpt", "openai"):
        raise DataError(
            f"{entry.registry}, '{entry.name}': formatting {named!r} is none of alpaca, sharegpt, openai; mend it",
            code="registry-malformed",
        )
    return bool(named != "alpaca")


def _texts(entry: Entry, key: str) -> Mapping[str, str]:
    """Return an entry's object of names, without those that are empty, which say that there is none."""
    given = entry.described.get(key) or {}
    if not isinstance(given, dict) or not all(text is None or isinstance(text, str) for text in given.values()):
        raise DataError(
            f"{entry.registry}, '{entry.name}': {key} is no object of names; mend it", code="registry-columns-malformed"
        )
    return {name: text for name, text in given.items() if text}


def _is_ending(entry: Entry, key: str) -> bool:
    """Whether ``split`` says no more than what the file's name says: of ``agnews_dev.json`` that it is dev."""
    split = str(entry.described[key])
    return key == "split" and (path := file_of(entry)) is not None and bare(path).endswith(f"_{split}")


def _columns(entry: Entry, rows: list[Record], sharegpt: bool, notes: list[str]) -> dict[str, str]:
    """Role to column: those that the entry names, and the format's own where they exist."""
    there = {column for row in rows for column in row.values}
    given = _texts(entry, "columns")
    roles = {"messages": "conversations", **_SHARED} if sharegpt else _ALPACA | _SHARED
    needed = ("messages",) if sharegpt else ("prompt", "response")
    if gone := next((given[key] for key in needed if key in given and given[key] not in there), None):
        raise DataError(
            f"{entry.registry}, '{entry.name}': no column '{gone}' in its rows, which have {few(sorted(there))}; mend it",
            code="column-missing",
        )
    if idle := [f"{key} {column}" for key, column in given.items() if key not in _KEYS or column not in there]:
        notes.append(f"{REGISTRY} names columns that '{entry.name}' does not have, or roles that are none: {few(idle)}")
    named = {roles[key]: column for key, column in given.items() if key in roles and column in there}
    if sharegpt:
        named.setdefault("conversations", "conversations")
    else:
        named = {role: role for role in ("instruction", "input", "output") if role in there} | named
    ranked = bool(entry.described.get("ranking")) or "chosen" in named
    if ranked and "chosen" not in named | dict.fromkeys(there):
        raise DataError(
            f"{entry.registry}, '{entry.name}': ranking asks for a column of chosen answers, its rows have "
            f"{few(sorted(there))}; name it as columns.chosen, or take ranking out",
            code="column-missing",
        )
    kept = named if ranked else {role: column for role, column in named.items() if role not in ("chosen", "rejected")}
    return {role: column for role, column in kept.items() if role in ROLES and not (ranked and role == "output")}


def _check_tags(entry: Entry, rows: list[Record], column: str, tags: Mapping[str, str]) -> None:
    cells = [row.values.get(column) for row in rows]
    turns = [turn for cell in cells if isinstance(cell, list) for turn in cell if isinstance(turn, dict)]
    for tag in ("role_tag", "content_tag"):
        if turns and tag in tags and not any(tags[tag] in turn for turn in turns):
            raise DataError(
                f"{entry.registry}, '{entry.name}': no turn of its rows has the {tag} '{tags[tag]}', they have {few(sorted(turns[0]))}; "
                "mend it",
                code="column-missing",
            )


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
