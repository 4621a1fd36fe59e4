"""Settings of routing: how inputs choose, which tasks adapters know, which rows are read (layer L1)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from typing import Any

from clora_cli.base import registry
from clora_cli.base.errors import ArtifactError, DataError, OptionError
from clora_cli.data import Task, named_task, own_tasks, recorded_columns
from clora_cli.data.streams import read_lines, row_file, stream_records
from clora_cli.options import RouteOptions, RouteSettings
from clora_cli.routing.inputs import Input, inputs_of_rows, inputs_of_task
from clora_cli.store.adapter_folder import AdapterFolder
from clora_cli.store.distribution import read_record

__all__ = ["calibration_tasks", "open_source", "route_options", "tasks_known"]

_MEND = "name the tasks with --calibrate"


def route_options(members: Sequence[AdapterFolder], given: Mapping[str, Any], *, top_k: int = 1) -> RouteOptions:
    """Return how inputs choose: as given, else as the adapters' method recorded it, else by default.

    A recorded temperature is one of the recorded similarity: it does not count under another, whose units differ.

    Args:
        members: The adapters. Where two of them record different ways, none of these counts.
        given: Fields of ``RouteOptions`` by name; None for those that were not given.
        top_k: The default of this one field.

    Raises:
        OptionError: If a value is out of range.
        ArtifactError: If an adapter records what is none of these options.
    """
    routed = [member for member in members if member.manifest and member.manifest.method.route]
    recorded = [_recorded(member, given.get("similarity") is not None) for member in routed]
    agreed = recorded[0] if recorded and all(one == recorded[0] for one in recorded) else {}
    if not agreed and members and all(member.combine == "learned" for member in members):
        agreed = {"similarity": "learned"}
    chosen = {name: value for name, value in given.items() if value is not None}
    if "similarity" in chosen and _name(chosen["similarity"]) != _name(agreed.get("similarity", "auto")):
        agreed = {name: value for name, value in agreed.items() if name != "temperature"}
    return RouteOptions(**{"top_k": top_k, **agreed, **chosen})


def _name(similarity: str) -> str:
    return similarity.partition(",")[0]


def _recorded(member: AdapterFolder, replaced: bool) -> dict[str, Any]:
    """Return how a member's method routes; empty if its router is not installed and another replaces it."""
    route = (member.manifest and member.manifest.method.route) or {}
    known = {option.name: type(option.default) for option in fields(RouteOptions)}
    right = isinstance(route, Mapping) and all(
        name in known and (type(value) is known[name] or (known[name] is float and type(value) is int))
        for name, value in route.items()
    )
    name = _name(str(route.get("similarity", ""))) if isinstance(route, Mapping) else ""
    needed = registry.missing("routers", name, member.manifest.method.raw if member.manifest else None)
    if needed and replaced:
        return {}
    try:
        fits = right and not needed and RouteOptions(**route) is not None
    except OptionError:
        fits = False
    if not fits:
        raise ArtifactError(
            f"adapter {member.path} records a way to route that this version does not support; "
            f"{f'{needed}, or pass --similarity' if needed else 'upgrade clora or train it again'}",
            code="routing-not-supported",
        )
    return dict(route)


def tasks_known(member: AdapterFolder) -> list[str]:
    """Return the names of the tasks that an adapter knows: its own, its data's, and those its distribution is made of."""
    data = read_record(member.features).data if member.features.is_file() else []
    made_of = [rows.name for rows in data]
    return list(dict.fromkeys(name for name in (member.task, *member.data_names, *made_of) if name))


def calibration_tasks(
    members: Sequence[AdapterFolder],
    options: RouteOptions,
    names: Sequence[str],
    columns: Mapping[str, str] | None = None,
) -> list[Task]:
    """Load the tasks whose dev rows say how near an input of a known task is; none where no input may abstain.

    Args:
        members: The adapters.
        options: How inputs choose.
        names: What ``--data`` would call the tasks; empty for those that the adapters' data are.
        columns: Role to column, for files.

    Raises:
        OptionError: If tasks are named and no input may abstain.
        DataError: If a task cannot be loaded, or none has dev rows.
    """
    if not options.abstain:
        if names:
            raise OptionError("--calibrate has nothing to calibrate; pass --abstain too", code="option-has-no-effect")
        return []
    try:
        found = _named(members, names, columns) if names else _own(members)
    except DataError as error:
        reason = str(error).removesuffix(f"; or {_MEND}")
        raise DataError(f"--abstain is calibrated on dev rows, and {reason}; or {_MEND}", code=error.code) from error
    tasks = [task for task in found if task.dev]
    if not tasks:
        raise DataError(
            "--abstain is calibrated on dev rows, and there are none; name tasks that have some with --calibrate",
            code="no-rows-to-calibrate",
        )
    return tasks


def _named(members: Sequence[AdapterFolder], names: Sequence[str], columns: Mapping[str, str] | None) -> list[Task]:
    return [named_task(name, members, _MEND, columns=columns) for name in names]


def _own(members: Sequence[AdapterFolder]) -> list[Task]:
    """The tasks of the adapters that say what they were trained on, and those that the others' distributions name."""
    bare = [name for member in members if not member.data_names for name in tasks_known(member)[1:]]
    tasks = [*own_tasks(members, _MEND), *_named((), list(dict.fromkeys(bare)), None)]
    return list({task.fingerprint: task for task in tasks}.values())


def open_source(
    name: str, stdin: Iterable[bytes], settings: RouteSettings, members: Sequence[AdapterFolder] = ()
) -> Iterable[Input]:
    """Return the inputs that ``--data`` names: a list of a task's, or rows that are read as they are asked for.

    Args:
        name: A task, a file of rows, or ``-``.
        stdin: The lines that ``-`` stands for.
        settings: For ``split``, ``limit`` and ``columns``.
        members: The adapters, whose data their names stand for.

    Raises:
        DataError: If there is no such task, or its split is empty.
    """
    if name == "-":
        return inputs_of_rows(read_lines(stdin, "standard input"), settings.columns, settings.limit)
    if (path := row_file(name)) is not None:
        columns = settings.columns or recorded_columns(name, members)
        return inputs_of_rows(stream_records(path), columns, settings.limit)
    task = named_task(name, members, "give the file as --data", columns=settings.columns)
    return inputs_of_task(task, settings.split, settings.limit)
