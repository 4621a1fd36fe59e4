"""``clora push`` (layer L4)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clora_cli.cli._declared import takes_declared
from clora_cli.cli._options import ConfigOption, JsonOption, QuietOption, form
from clora_cli.cli._output import Terminal, emit
from clora_cli.options import PushOptions

__all__ = ["push"]


@takes_declared
def push(
    package: Annotated[Path, typer.Argument(help="A package, or an adapter folder.", show_default=False)],
    target: Annotated[
        str, typer.Argument(help="A folder, file://…, or hf://OWNER/NAME[@REVISION].", show_default=False)
    ],
    options: PushOptions,
    force: Annotated[bool, typer.Option("--force", help="Replace another package in a folder.")] = False,
    config: ConfigOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Send a package to a folder or the Hub, with a model card and the checksum of every file.

    The card states licence, base model and, from --scores, results in the form that the Hub shows. A repository that is made
    anew is private. The Hub's own login counts (hf auth login).

    Example: clora push adapters hf://me/my-tasks --license apache-2.0 --scores scores.json
    """
    output = form(json, quiet)
    from clora_cli.store.package import read_package
    from clora_cli.transforming.publishing import push_package

    members = read_package([package])
    files, sent = push_package(members, target, options, force=force, progress=Terminal(output), packages=[package])
    text = f"{target}  ({len(members)} adapters, {len(files)} files{'' if sent else '; up to date'})"
    emit(
        output, text=text, data={"schema": "clora.push/1", "target": target, "files": files, "sent": sent}, brief=target
    )
