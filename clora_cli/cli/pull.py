"""``clora pull`` (layer L4)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from clora_cli.cli._options import ConfigOption, JsonOption, QuietOption, form, writable
from clora_cli.cli._output import Terminal, emit
from clora_cli.cli._waiting import BreakLockOption, WaitOption, patience

__all__ = ["pull"]


def pull(
    source: Annotated[
        str, typer.Argument(help="A folder, file://…, or hf://OWNER/NAME[@REVISION].", show_default=False)
    ],
    out: Annotated[Path, typer.Option("-o", "--out", callback=writable, help="Folder to write.")] = Path("adapters"),
    force: Annotated[bool, typer.Option("--force", help="Replace what is at --out.")] = False,
    wait: WaitOption = None,
    break_lock: BreakLockOption = False,
    config: ConfigOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Fetch a package that was pushed, or adapters of somebody else, and check every file.

    Nothing appears at --out before all files are what their checksums say. After an interruption the same call fetches the
    rest. Pickles are left out, and what clora scan finds is told.

    Example: clora pull hf://me/my-tasks -o adapters
    """
    output = form(json, quiet)
    from clora_cli.transforming.publishing import pull_package

    waiting = patience(wait, break_lock)
    members, fetched = pull_package(source, out, force=force, progress=Terminal(output), patience=waiting)
    data: dict[str, Any] = {"schema": "clora.pull/1", "path": str(out), "source": source, "fetched": fetched}
    data["adapters"] = [{"task": member.task, "path": str(member.path), "sha256": member.digest} for member in members]
    state = "" if fetched else "; up to date"
    emit(output, text=f"{out}  ({len(members)} adapters{state})", data=data, brief=str(out))
