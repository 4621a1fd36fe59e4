"""``clora merge`` (layer L4)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clora_cli.cli._declared import takes_declared
from clora_cli.cli._options import ConfigOption, DryRunOption, JsonOption, QuietOption, form
from clora_cli.cli._output import Terminal, emit
from clora_cli.cli._waiting import BreakLockOption, WaitOption, command_line, patience
from clora_cli.options import MergeOptions

if TYPE_CHECKING:
    from clora_cli.transforming import MergePlan

__all__ = ["merge"]


@takes_declared
def merge(
    adapters: Annotated[
        list[Path], typer.Argument(help="Adapter folders or packages, in any mixture.", show_default=False)
    ],
    options: MergeOptions,
    force: Annotated[bool, typer.Option("--force", help="Replace what --out holds.")] = False,
    wait: WaitOption = None,
    break_lock: BreakLockOption = False,
    config: ConfigOption = None,
    dry_run: DryRunOption = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Merge adapters into one, file to file, without loading the base model.

    Works on deltas (scaling * B A), never on factors apart. Linear strategies give an exact LoRA by default, the others
    dense deltas; both are adapter folders that clora eval takes.

    Example: clora merge adapters/* --strategy magmax -o merged
    """
    output = form(json, quiet)
    from clora_cli.store.package import read_package
    from clora_cli.transforming import merge_adapters, plan_merge
    from clora_cli.transforming.member import check_apart

    check_apart(options.place, adapters)
    terminal = Terminal(output)
    plan = plan_merge(read_package(adapters, distinct=False), options, progress=terminal)
    data: dict[str, Any] = {
        "schema": "clora.merge/1",
        "path": str(options.place),
        "strategy": options.strategy,
        "form": plan.form,
        "rank": plan.rank or None,
        "sites": len(plan.shapes),
        "checked": plan.merger.layers is not None,
        "adapters": [str(member.path) for member in plan.members],
    }
    summary = f"{options.strategy} of {len(plan.members)} adapters at {len(plan.shapes)} sites, {_told(plan)}"
    if dry_run:
        emit(output, text=f"would write {options.place}: {summary}", data=data, brief=str(options.place))
        return
    how: dict[str, Any] = {"progress": terminal, "patience": patience(wait, break_lock)}
    path, scores, made = merge_adapters(plan, force=force, argv=command_line(), **how)
    text = f"{path}  ({summary}{'' if made else '; up to date'})"
    if energy := scores.get("energy"):
        text += (
            f"\nenergy kept {100 * energy['kept']:.2f} %, at the worst site {100 * energy['worst']:.2f} % "
            f"({energy['worst_site']})"
        )
    emit(output, text=text, data={**data, **scores, "made": made}, brief=str(path))


def _told(plan: MergePlan) -> str:
    exact = f"exact, as one LoRA of rank {plan.total_rank}"
    factors = f"cut to rank {plan.rank}" if plan.rank else exact
    told = {"factors": factors, "dense": "as dense deltas", "model": "added to the model's weights"}[plan.form]
    checked = plan.merger.layers is not None
    return told if checked else f"{told}; its sites were not checked, --model names the base model to compare them with"
