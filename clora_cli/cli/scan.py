"""``clora scan`` (layer L4)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from clora_cli.base.errors import LimitError
from clora_cli.cli._declared import takes_declared
from clora_cli.cli._options import ConfigOption, JsonOption, QuietOption, form
from clora_cli.cli._output import emit
from clora_cli.options import ScanOptions

__all__ = ["scan"]


@takes_declared
def scan(
    folders: Annotated[
        list[Path], typer.Argument(help="Adapter folders, or packages of them, from anywhere.", show_default=False)
    ],
    options: ScanOptions,
    config: ConfigOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Look at adapters of somebody else before they are trusted; nothing of them is loaded as a model, run or rendered.

    Finds pickles, programs and archives, links that lead out, files that are not what they seem, numbers that are not finite,
    layers that change far more than their like, changes beyond plain LoRA, and chat templates that do more than write a
    conversation down. With findings the exit status is 5. That nothing is found proves nothing about what the adapter answers.

    Example: clora scan downloaded/adapter
    """
    output = form(json, quiet)
    from clora_cli.store.scanning import scan_all

    found = scan_all(folders, options.deviations)
    data: dict[str, Any] = {
        "schema": "clora.scan/1",
        "adapters": [{"path": path, "findings": [one.to_dict() for one in every]} for path, every in found.items()],
    }
    lines = []
    for path, findings in found.items():
        lines.append(f"{path}: {len(findings) or 'no'} finding{'' if len(findings) == 1 else 's'}")
        lines += [f"  {one.kind:<9} {one.place}: {one.what}" for one in findings]
    count = sum(map(len, found.values()))
    emit(output, text="\n".join(lines), data=data, brief=str(count))
    if count:
        suspects = ", ".join(path for path, findings in found.items() if findings)
        raise LimitError(f"{count} findings in {suspects}; look at them before you use it", code="scan-findings")
