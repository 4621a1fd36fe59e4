"""What artifacts, tasks and adapters of others are, from Python (layer L4)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from clora_cli.api.calls import Listener, Paths, heard, settled, some_paths
from clora_cli.base import registry
from clora_cli.base.errors import OptionError, blaming
from clora_cli.options import ScanOptions

if TYPE_CHECKING:
    from clora_cli.data import Task, TaskInfo
    from clora_cli.store.scanning import Finding

__all__ = ["scan", "show", "tasks"]

_SCHEMA = "clora.show/1"


@blaming()
def show(
    paths: Paths,
    *,
    diff: bool = False,
    epsilon: float = 0.03,
    sample_rows: int = 0,
    out: str | Path | None = None,
    progress: Listener | None = None,
) -> Mapping[str, Any]:
    """Tell what an artifact is, after checking it, or how adapters differ.

    Args:
        paths: An adapter folder, a package, a scores file, or a plug-in's name or file; with ``diff`` two adapters or more.
        diff: Tell how adapters overlap: each pair, and each against all earlier ones.
        epsilon: Share of its delta's largest magnitude that an entry must exceed to count, for ``diff``.
        sample_rows: Estimate collisions and signs from so many rows of each layer; 0 for all.
        out: Also draw it, as .png, .svg or .pdf: ``diff``, or who owns what of a shared LoRA.
        progress: Called with each ``Event``.

    Returns:
        What the command's ``--json`` prints.

    Raises:
        CloraError: As the command.
    """
    from clora_cli.presenting.difference_forms import difference_json
    from clora_cli.presenting.figures.difference_maps import draw_difference
    from clora_cli.reporting.differences import difference, read_adapters

    places, target = some_paths(paths, "what to show"), None if out is None else Path(out)
    if not diff:
        if len(places) != 1:
            raise OptionError("show describes one artifact at a time; pass diff=True to compare", code="option-missing")
        return _one(places[0], target)
    measured = difference(read_adapters(places), epsilon=epsilon, rows=sample_rows, progress=heard(progress))
    if target is not None:
        draw_difference(measured, target, None)
    return difference_json(measured)


def _one(path: Path, out: Path | None) -> Mapping[str, Any]:
    from clora_cli.reporting.artifact_facts import adapter_facts, kind_of, plugin_facts
    from clora_cli.store.adapter_folder import read_adapter
    from clora_cli.store.scores import read_scores

    kind = kind_of(path)
    if kind == "package":
        return _package(path, out)
    if out is not None:
        raise OptionError(f"out={str(out)!r} draws a package whose tasks share a LoRA, or diff", code="option-missing")
    if kind == "scores":
        return read_scores(path).to_dict()
    if kind == "adapter":
        return {"schema": _SCHEMA, "adapter": adapter_facts(read_adapter(path))}
    name, kinds = registry.provided(str(path)) if kind == "plug-in file" else (str(path), registry.kinds_of(str(path)))
    return {"schema": _SCHEMA, "plugins": plugin_facts(kinds, name)}


def _package(path: Path, out: Path | None) -> Mapping[str, Any]:
    from clora_cli.presenting.capacity_forms import capacity_json, draw_capacity
    from clora_cli.reporting.anatomy import shared_ledger
    from clora_cli.reporting.artifact_facts import adapter_facts
    from clora_cli.store.package import read_package

    members = read_package([path])
    data: dict[str, Any] = {"schema": _SCHEMA, "package": [adapter_facts(member) for member in members]}
    ledger = shared_ledger(members)
    if out is not None and ledger is None:
        raise OptionError(f"the adapters of {path} share no LoRA; pass diff=True", code="nothing-to-draw")
    if out is not None and ledger is not None:
        draw_capacity(ledger, out)
    return data if ledger is None else {**data, "capacity": capacity_json(ledger)}


@overload
def tasks(name: None = None, *, columns: Mapping[str, str] | None = None) -> Sequence[TaskInfo]: ...


@overload
def tasks(name: str, *, columns: Mapping[str, str] | None = None) -> Task: ...


@blaming()
def tasks(name: str | None = None, *, columns: Mapping[str, str] | None = None) -> Sequence[TaskInfo] | Task:
    """List what ``data`` can name, or load one task.

    Args:
        name: A task; None lists all that are known by name. Files, folders and Hub ids can be named too.
        columns: Which column of a file plays a role, such as ``{"prompt": "question"}``.

    Returns:
        The task with its rows (``train``, ``dev``, ``test``), or what is known of each.

    Raises:
        DataError: If there is no such task, or its rows are malformed.
    """
    from clora_cli.data import list_tasks, load_task

    return list_tasks() if name is None else load_task(name, columns=columns)


@blaming()
def scan(folders: Paths, options: ScanOptions | None = None) -> Mapping[str, Sequence[Finding]]:
    """Look at adapters of somebody else before they are trusted; nothing of them is loaded as a model, run or rendered.

    Args:
        folders: Adapter folders, or packages of them, from anywhere.
        options: What counts as a finding.

    Returns:
        The findings of each adapter, by its folder; an empty list where nothing speaks against it, which proves nothing.

    Raises:
        CloraError: If a folder cannot be looked at.
    """
    from clora_cli.store.scanning import scan_all

    return scan_all(some_paths(folders, "adapters to scan"), settled(options or ScanOptions()).deviations)
