"""Read the rows of a folder's splits from its files, and note all files that are not read (layer L1)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from clora_cli.base.errors import DataError
from clora_cli.data.findings import few
from clora_cli.data.pictures import ENDINGS
from clora_cli.data.readers import READERS, Record, is_readable, read_records
from clora_cli.data.split_names import Twofold, are_parts, choose_splits, missing_parts, split_of, told
from clora_cli.data.texts import COMPRESSED, bare

__all__ = ["read_folder", "split_files", "unread"]

# Files that hold rows but are of a kind not read here, and files that never hold rows.
_TABLES = {".txt", ".xlsx", ".xls", ".ods", ".feather", ".orc", ".avro", ".pkl", ".pickle", ".npy", ".npz",
           ".h5", ".db", ".sqlite", ".xml", ".zip", ".tar", ".tgz", ".7z", ".rar"}  # fmt: skip
_NO_ROWS = {"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json", "readme.txt", "license.txt"}


def read_folder(folder: Path) -> tuple[dict[str, list[Record]], list[str]]:
    """Return the rows of a folder by split, and notes.

    Splits are files (``train.jsonl``, ``val.csv.gz``), their numbered parts, or folders of files, in the folder itself, its
    ``data/`` or its only other folder. A single file, or files whose names differ only in a number, are the training rows.

    Raises:
        DataError: Nothing can be read, or a split is there twice.
    """
    sources = split_files(folder)
    if not any(split_of(name) for name in sources):
        files = [path for paths in sources.values() for path in paths if path.parent == folder]
        if files and (len(files) == 1 or are_parts(map(bare, files))):
            notes = [*_together(files), *unread(folder, files)]
            return {"train": [row for file in files for row in read_records(file, notes)]}, notes
        if inner := _inner(folder):
            splits, notes = read_folder(inner)
            return splits, [*notes, *unread(folder, [inner])]
        raise _nothing(folder)
    try:
        chosen, _ = choose_splits(sources)
    except Twofold as error:
        raise DataError(f"{folder}: {error}; keep one, or give the one to use as --data", code="split-twice") from error
    used = [path for names in chosen.values() for name in names for path in sources[name]]
    splits, notes = _read(chosen, sources)
    return splits, [*notes, *unread(folder, used)]


def split_files(folder: Path, readable: Callable[[Path], bool] = is_readable) -> dict[str, list[Path]]:
    """Return a folder's files of rows by their names without endings, including files in folders named like splits.

    Raises:
        DataError: Two files, or a file and a folder, hold one split.
    """
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if path.is_dir():
            split = split_of(path.name)
            paths = [file for file in sorted(path.iterdir()) if readable(file) and file.is_file()] if split else []
        else:
            paths = [path] if readable(path) and path.name.casefold() not in _NO_ROWS else []
        name = path.name if path.is_dir() else bare(path)
        if paths and name in found and (split := split_of(name)):
            first = found[name][0] if found[name][0].parent == folder else found[name][0].parent
            raise DataError(
                f"{folder}: {first.name} and {path.name} both hold {split.kind}; keep one", code="split-twice"
            )
        if paths:
            found.setdefault(name, []).extend(paths)
    return found


def unread(folder: Path, used: Sequence[Path]) -> list[str]:
    """Return a note that names the unused files of rows in a folder, each with its number of rows."""
    inside = {path.parent for path in used} | set(used)
    left = []
    for path in sorted(folder.iterdir()):
        if path in inside or path.name.startswith(".") or path.name.casefold() in _NO_ROWS:
            continue
        if path.is_dir():
            count = sum(1 for file in path.rglob("*") if is_readable(file))
            left += [f"{path.name}/ ({count} files)"] if count else []
        elif is_readable(path):
            left.append(f"{path.name} ({_count(path)})")
        elif path.suffix.lower() in _TABLES | set(COMPRESSED):
            left.append(f"{path.name} (cannot be read)")
    for parent in sorted({path.parent for path in used if path.parent != folder and path.parent.parent == folder}):
        others = [
            file for file in sorted(parent.iterdir()) if file not in used and (file.is_dir() or is_readable(file))
        ]
        left += [f"{parent.name}/{file.name}" for file in others if not file.name.startswith(".")]
    return [f"not used in {folder.name}: {few(left)}"] if left else []


def _together(files: Sequence[Path]) -> list[str]:
    names = [bare(file) for file in files]
    parts = f"train is {few(file.name for file in files)}" if len(files) > 1 else ""
    return [note for note in (parts, missing_parts(names)) if note]


def _count(path: Path) -> str:
    try:
        return f"{len(read_records(path))} rows"
    except DataError:
        return "cannot be read"


def _read(
    chosen: Mapping[str, Sequence[str]], sources: Mapping[str, Sequence[Path]]
) -> tuple[dict[str, list[Record]], list[str]]:
    splits: dict[str, list[Record]] = {}
    notes: list[str] = []
    for kind, names in chosen.items():
        rows = {name: [row for path in sources[name] for row in read_records(path, notes)] for name in names}
        splits[kind] = [row for part in rows.values() for row in part]
        parts = [bare(path) for name in names for path in sources[name]]
        notes += [
            note
            for note in (told(kind, {name: len(part) for name, part in rows.items()}), missing_parts(parts))
            if note
        ]
    return splits, notes


def _inner(folder: Path) -> Path | None:
    """The folder with the splits: ``data/``, or the only one that has any, such as a configuration's."""
    if (folder / "data").is_dir():
        return folder / "data"
    holding = [path for path in sorted(folder.iterdir()) if path.is_dir() and any(map(split_of, split_files(path)))]
    if len(holding) > 1:
        raise DataError(
            f"{folder}: it holds several data sets: {few(path.name for path in holding)}; name one of them",
            code="several-data-sets",
        )
    return holding[0] if holding else None


def _nothing(folder: Path) -> DataError:
    there = ", ".join(path.name for path in sorted(folder.iterdir())[:5]) or "nothing"
    return DataError(
        f"{folder}: no train, dev or test file ({', '.join(READERS)}) in it, and no image ({', '.join(sorted(ENDINGS))}) in folders of "
        f"classes; it holds {there}",
        code="folder-without-splits",
    )
