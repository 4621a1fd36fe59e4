"""``clora expand`` (layer L4)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clora_cli.cli._declared import takes_declared
from clora_cli.cli._options import ConfigOption, DryRunOption, JsonOption, QuietOption, form
from clora_cli.cli._output import Terminal, emit
from clora_cli.cli._waiting import BreakLockOption, WaitOption, patience
from clora_cli.options import ExpandOptions

if TYPE_CHECKING:
    from clora_cli.transforming import ExpandPlan

__all__ = ["expand"]


@takes_declared
def expand(
    packages: Annotated[
        list[Path],
        typer.Argument(
            help="Packages and adapter folders, in any mixture; also PEFT's own folders.", show_default=False
        ),
    ],
    options: ExpandOptions,
    force: Annotated[bool, typer.Option("--force", help="Replace another package at --out.")] = False,
    wait: WaitOption = None,
    break_lock: BreakLockOption = False,
    config: ConfigOption = None,
    dry_run: DryRunOption = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Unite packages without training: the members of all, each with its feature distribution, as one package.

    Adapters are copied, inputs stay as they are, and removing a member of the result leaves what the union of the others
    would have been. Inputs must be able to choose among the members: all have feature distributions that compare, or all
    have task vectors; where a distribution is missing, the command that makes it is told.

    Example: clora expand supernI.pkg longseq.pkg -o both.pkg
    """
    output = form(json, quiet)
    from clora_cli.transforming import expand_packages, plan_expand

    terminal = Terminal(output)
    plan = plan_expand(packages, options, progress=terminal)
    data: dict[str, Any] = {"schema": "clora.expand/1", "path": str(options.out), "members": _facts(plan)}
    if dry_run:
        emit(output, text=f"would write {options.out}\n{_table(plan)}", data=data, brief=str(options.out))
        return
    waiting = patience(wait, break_lock)
    path, made = expand_packages(plan, force=force, progress=terminal, patience=waiting)
    text = f"{path}{'' if made else '  (up to date)'}\n{_table(plan)}"
    emit(output, text=text, data={**data, "made": made}, brief=str(path))


def _facts(plan: ExpandPlan) -> list[dict[str, Any]]:
    return [
        {
            "task": member.task,
            "stage": member.stage,
            "path": str(plan.options.out / member.task),
            "source": str(member.path),
            "origin": dict(member.origin),
            "method": member.folder.manifest.method.name if member.folder.manifest else None,
            "rows": member.routable.count if member.routable else None,
            "second_moment": member.routable.second if member.routable else None,
        }
        for member in plan.members
    ]


def _table(plan: ExpandPlan) -> str:
    lines = [f"{'stage':>5}  {'task':<20} {'from package':<20} {'method':<16} {'rows':>7}  second moments"]
    for member, fact in zip(plan.members, _facts(plan), strict=True):
        profile = fact["second_moment"] or ("soft prompt" if member.folder.is_prompt else "task vector")
        stage = "-" if fact["stage"] is None else fact["stage"]
        lines.append(
            f"{stage:>5}  {fact['task']:<20} {fact['origin']['package']:<20} {fact['method'] or '-':<16} "
            f"{'-' if fact['rows'] is None else fact['rows']:>7}  {profile}"
        )
    return "\n".join(lines)
