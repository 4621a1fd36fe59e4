"""``clora show`` (layer L4)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clora_cli.cli._options import JsonOption, QuietOption, form
from clora_cli.cli._output import emit
from clora_cli.errors import ArtifactError

if TYPE_CHECKING:
    from clora_cli.package import AdapterFolder

__all__ = ["show"]


def show(
    path: Annotated[Path, typer.Argument(help="An adapter folder, a package or a scores file.", show_default=False)],
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Tell what an artifact is, after checking it; with --quiet just its task, or its tasks in order.

    Example: clora show adapters
    """
    output = form(json, quiet)
    from clora_cli.package import is_adapter, read_adapter, read_package

    if path.is_file():
        _show_scores(path, output)
    elif is_adapter(path):
        member = read_adapter(path)
        emit(
            output,
            text=_adapter_text(member),
            data={"schema": "clora.show/1", "adapter": _facts(member)},
            brief=member.task,
        )
    elif path.exists():
        members = read_package([path])
        facts = [_facts(member) for member in members]
        brief = "\n".join(member.task for member in members)
        emit(output, text=_package_text(members), data={"schema": "clora.show/1", "package": facts}, brief=brief)
    else:
        raise ArtifactError(f"{path} does not exist")


def _show_scores(path: Path, output: Any) -> None:
    from clora_cli.reporting import assemble, matrix_table
    from clora_cli.scores import read_scores

    scores = read_scores(path)
    brief = "\n".join(scores.order)
    emit(output, text=matrix_table(assemble([scores])[0]), data=scores.to_dict(), brief=brief)


def _facts(member: AdapterFolder) -> dict[str, Any]:
    factors = member.factors()
    numbers = sum(factor.a.numel() + factor.b.numel() for factor in factors.values())
    shapes = sorted({f"{factor.shape[0]} x {factor.shape[1]}" for factor in factors.values()})
    return {
        "path": str(member.path),
        "task": member.task,
        "stage": member.stage,
        "base_model": dict(member.base),
        "sha256": member.digest,
        "sites": len(factors),
        "shapes": shapes,
        "parameters": numbers,
        "manifest": dict(member.manifest),
    }


def _adapter_text(member: AdapterFolder) -> str:
    facts, manifest = _facts(member), member.manifest
    lines = [
        f"{member.path}: "
        + (f"task {member.task}, stage {member.stage}" if manifest else "a PEFT LoRA folder without a clora manifest")
    ]
    lines.append(f"  base     {member.base.get('id')}")
    lines.append(
        f"  sites    {facts['sites']} ({', '.join(facts['shapes'])}), {facts['parameters'] / 1e6:.3f} M parameters"
    )
    if manifest:
        options = {
            name: {k: v for k, v in chosen.items() if v is not None}
            for name, chosen in manifest["method"]["options"].items()
        }
        lines.append(f"  method   {manifest['method']['name']} {options}")
        lines.append(f"  parents  {', '.join(parent['task'] for parent in manifest['parents']) or 'none'}")
        lines.append(
            f"  data     {manifest['data']['source']}, {manifest['data']['train_rows']} rows, {manifest['data']['metric']}"
        )
        lines.append(
            f"  training {', '.join(f'{key} {value}' for key, value in manifest['training'].items())}, seed {manifest['seed']}"
        )
        lines.append(f"  last step {manifest['scores']['last_step']}")
    lines.append(f"  sha256   {facts['sha256']}")
    return "\n".join(lines)


def _package_text(members: Sequence[AdapterFolder]) -> str:
    lines = [f"{'stage':>5}  {'task':<20} {'method':<16} {'base':<24} sha256"]
    for member in members:
        method = member.manifest["method"]["name"] if member.manifest else "-"
        stage = "-" if member.stage is None else member.stage
        lines.append(f"{stage:>5}  {member.task:<20} {method:<16} {member.base.get('id')!s:<24} {member.digest[:12]}")
    return "\n".join(lines)
