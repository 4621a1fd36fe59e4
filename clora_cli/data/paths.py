"""A file or a folder to the draft of a task, whatever its format (layer L1)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from clora_cli.data.columns import draft_of
from clora_cli.data.files import READERS, Record, read_records
from clora_cli.data.layouts import is_benchmark_folder, is_task_file, read_benchmark_folder, read_task_file, task_name
from clora_cli.data.splits import Draft
from clora_cli.errors import DataError

__all__ = ["SPLIT_NAMES", "read_path"]

SPLIT_NAMES = {"train": "train", "dev": "dev", "validation": "dev", "valid": "dev", "eval": "dev", "test": "test"}
_SHARD = re.compile(r"(?P<split>[a-z]+)(-\d+(-of-\d+)?)?", re.IGNORECASE)


def read_path(path: Path, columns: Mapping[str, str] | None = None) -> Draft:
    """Return the draft of the task in a file or folder.

    Args:
        path: A data file; a folder of either benchmark layout; one with ``train``, ``dev`` and ``test`` files, or
            their shards, in it or in its ``data/``; one that ``datasets`` saved.
        columns: Role to column name; not for the benchmark layouts, whose columns are fixed.

    Raises:
        DataError: It does not exist, or holds nothing that can be read.
    """
    if path.is_file():
        if is_task_file(path) and not columns:
            return read_task_file(path)
        return draft_of(task_name(path.stem), f"file {path.name}", {"train": read_records(path)}, columns)
    if not path.is_dir():
        raise DataError(f"{path}: no such file or folder")
    if is_benchmark_folder(path) and not columns:
        return read_benchmark_folder(path.resolve())
    name = path.resolve().name
    if any((path / marker).is_file() for marker in ("dataset_dict.json", "dataset_info.json")):
        from clora_cli.data.hub import read_saved

        return draft_of(task_name(name), f"folder {name}", read_saved(path), columns)
    return draft_of(task_name(name), f"folder {name}", _read_folder(path), columns)


def _read_folder(folder: Path) -> dict[str, list[Record]]:
    """Rows of a folder's split files, or of its only data file."""
    files = [path for path in sorted(folder.iterdir()) if path.suffix.lower() in READERS and path.is_file()]
    splits = _by_split(files)
    if splits:
        return {split: [row for path in paths for row in read_records(path)] for split, paths in splits.items()}
    if len(files) == 1:
        return {"train": read_records(files[0])}
    if (folder / "data").is_dir():
        return _read_folder(folder / "data")
    there = ", ".join(path.name for path in sorted(folder.iterdir())[:5]) or "nothing"
    raise DataError(f"{folder}: no train, dev or test file ({', '.join(READERS)}) in it; it holds {there}")


def _by_split(files: list[Path]) -> dict[str, list[Path]]:
    splits: dict[str, list[Path]] = {}
    for path in files:
        match = _SHARD.fullmatch(path.stem)
        split = SPLIT_NAMES.get(match["split"].casefold()) if match else None
        if split:
            splits.setdefault(split, []).append(path)
    for split, paths in splits.items():
        if len(paths) > 1 and any(re.fullmatch(r"[A-Za-z]+", path.stem) for path in paths):
            raise DataError(f"{paths[0].parent}: {paths[0].name} and {paths[1].name} both hold {split}; keep one")
    return splits
