"""Options that several commands share (layer L4)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from clora_cli.base import registry
from clora_cli.base.folder_names import check_path
from clora_cli.cli._config import use_config
from clora_cli.cli._output import Form
from clora_cli.options import ways

__all__ = [
    "ColumnsOption",
    "ConfigOption",
    "DeviceOption",
    "DryRunOption",
    "DtypeOption",
    "JsonOption",
    "ModelOption",
    "NprocOption",
    "QuietOption",
    "RevisionOption",
    "complete_combine",
    "complete_plugin",
    "complete_strategy",
    "complete_task",
    "form",
    "writable",
]


def complete_plugin(kind: str, incomplete: str, *others: str) -> list[str]:
    """Complete a plug-in's name, an alias of it, or the path of a file with one."""
    known = [name for name in sorted({*others, *registry.names(kind)}) if name.startswith(incomplete)]
    return known + (_files(incomplete) if "/" in incomplete or incomplete.startswith(".") else [])


def _files(incomplete: str) -> list[str]:
    """Return the Python files and folders whose paths begin so."""
    folder, slash, start = incomplete.rpartition("/")
    try:
        entries = sorted(Path(f"{folder}{slash}" or ".").iterdir())
    except OSError:
        return []
    fitting = [entry for entry in entries if entry.name.startswith(start) and (start or not entry.name.startswith("."))]
    there = [entry.name + "/" if entry.is_dir() else entry.name for entry in fitting]
    return [f"{folder}{slash}{name}" for name in there if name.endswith((".py", "/"))]


def complete_method(incomplete: str) -> list[str]:
    """Complete a method's name, also after a ``+``."""
    before, plus, last = incomplete.rpartition("+")
    return [f"{before}{plus}{name}" for name in complete_plugin("methods", last)]


def complete_combine(incomplete: str) -> list[str]:
    """Complete a way to combine adapters: a fixed one or a merge's name."""
    return complete_plugin("merges", incomplete, *ways())


def complete_strategy(incomplete: str) -> list[str]:
    """Complete a merge's name."""
    return complete_plugin("merges", incomplete)


def complete_task(incomplete: str) -> list[str]:
    """Complete the name of a bundled or known task."""
    from clora_cli.data import list_tasks

    return [info.name for info in list_tasks() if info.name.startswith(incomplete)]


def writable(context: typer.Context, parameter: typer.CallbackParam, value: Any) -> Any:
    """Refuse a place that cannot be written for its name, before any work is done for it.

    Raises:
        OptionError: If the name is too long, or cannot be shown.
    """
    for path in value if isinstance(value, (list, tuple)) else [value]:
        if path is not None:
            check_path(path, f"--{str(parameter.name).replace('_', '-')}")
    return value


def form(json: bool, quiet: bool) -> Form:
    """Return the output form that the two switches ask for.

    Raises:
        typer.BadParameter: If both are given.
    """
    if json and quiet:
        raise typer.BadParameter("--json and --quiet exclude each other")
    return Form.JSON if json else Form.QUIET if quiet else Form.TEXT


ConfigOption = Annotated[
    Path | None,
    typer.Option("-c", "--config", help="YAML file of this command's options.", callback=use_config, is_eager=True),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
QuietOption = Annotated[bool, typer.Option("-q", "--quiet", help="Print just the path or the number.")]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Check everything and print the plan; change nothing.")]
ModelOption = Annotated[
    str | None, typer.Option("-m", "--model", help="Base model; the one that the adapters name by default.")
]
NprocOption = Annotated[
    int, typer.Option("--nproc", help="Processes, which share the inputs out, a batch each; the result is the same.")
]
RevisionOption = Annotated[str | None, typer.Option(help="Revision of a Hub model.")]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:0, mps …")]
DtypeOption = Annotated[
    str, typer.Option(help="auto, float32, bfloat16 or float16; auto is float32 on a CPU, bfloat16 elsewhere.")
]
ColumnsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--columns",
        metavar="ROLE=COLUMN",
        help="Which column of a file plays a role, such as prompt=question; repeatable.",
    ),
]
