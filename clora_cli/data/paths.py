"""Read the draft of a task from a file or folder of any format (layer L1)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from clora_cli.base.errors import DataError
from clora_cli.data.columns import draft_of
from clora_cli.data.findings import few
from clora_cli.data.folders import read_folder
from clora_cli.data.image_folders import read_image_folder
from clora_cli.data.known_tasks import TRACE, canonical
from clora_cli.data.layouts import is_benchmark_folder, is_task_file, read_benchmark_folder, read_task_file, task_name
from clora_cli.data.readers import read_records
from clora_cli.data.registries import read_entry
from clora_cli.data.registry_names import entry_of
from clora_cli.data.splits import Draft
from clora_cli.data.texts import bare

__all__ = ["read_path"]


def read_path(path: Path, columns: Mapping[str, str] | None = None) -> Draft:
    """Return the draft of the task in a file or folder.

    Args:
        path: A data file; a folder of either benchmark layout; one with ``train``, ``dev`` and ``test`` files, or
            their parts, in it or in its ``data/``; one of images, with a folder for each class; one that ``datasets``
            saved; one with LLaMA-Factory's ``dataset_info.json``, or a name in that file below it.
        columns: Role to column name; not for the benchmark layouts, whose columns are fixed.

    Raises:
        DataError: It does not exist, or holds nothing that can be read.
    """
    if (entry := entry_of(path)) is not None:
        return read_entry(entry, columns)
    if path.is_file():
        if is_task_file(path) and not columns:
            return read_task_file(path)
        notes: list[str] = []
        return draft_of(
            task_name(bare(path)), f"file {path.name}", {"train": read_records(path, notes)}, columns, notes
        )
    if not path.is_dir():
        raise DataError(f"{path}: no such file or folder", code="path-missing")
    path, name = _downloaded(path)
    if is_benchmark_folder(path) and not columns:
        return read_benchmark_folder(path.resolve())
    if any((path / marker).is_file() for marker in ("dataset_dict.json", "state.json")):
        from clora_cli.data.hub import read_saved

        splits, notes = read_saved(path)
    else:
        splits, notes = read_image_folder(path) or read_folder(path)
    draft = draft_of(task_name(name), f"folder {name}", splits, columns, notes)
    return draft if columns else _as_known(draft, name)


def _as_known(draft: Draft, name: str) -> Draft:
    """Return the draft of a TRACE folder, whose rows do not say how they are scored, with the task's metric and labels."""
    known = canonical(name)
    if known is None or known.family != TRACE or draft.template != "plain":
        return draft
    labels, origin = known.labels, "the task's labels" if known.labels else draft.labels_from
    return replace(
        draft, metric=known.metric, source=f"TRACE {name}", labels=labels, labels_from=origin, closed=bool(labels)
    )


def _downloaded(folder: Path) -> tuple[Path, str]:
    """A folder and its name; for a data set in the Hub's cache, its snapshot folder and the data set's name."""
    name = folder.resolve().name
    if not name.startswith("datasets--") or not (folder / "snapshots").is_dir():
        return folder, name
    main, snapshots = folder / "refs" / "main", sorted((folder / "snapshots").iterdir())
    if main.is_file():
        snapshots = [path for path in snapshots if path.name == main.read_text(encoding="utf-8").strip()] or snapshots
    if len(snapshots) != 1:
        raise DataError(
            f"{folder}: it holds {len(snapshots)} snapshots; name one of {few(map(str, snapshots))}",
            code="several-snapshots",
        )
    return snapshots[0], name.rpartition("--")[2]
