"""``clora merge`` (layer L4)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clora_cli.base import registry
from clora_cli.cli._options import (
    ConfigOption,
    DryRunOption,
    JsonOption,
    ModelOption,
    QuietOption,
    complete_strategy,
    form,
    writable,
)
from clora_cli.cli._output import Terminal, emit
from clora_cli.cli._waiting import BreakLockOption, WaitOption, command_line, patience

if TYPE_CHECKING:
    from clora_cli.transforming import MergePlan

__all__ = ["merge"]

_STRATEGIES = ", ".join(registry.names("merges"))


def merge(
    adapters: Annotated[
        list[Path], typer.Argument(help="Adapter folders or packages, in any mixture.", show_default=False)
    ],
    strategy: Annotated[
        str, typer.Option("--strategy", help=f"One of {_STRATEGIES}.", autocompletion=complete_strategy)
    ] = "sum",
    option: Annotated[
        list[str] | None,
        typer.Option(
            "--option", metavar="KEY=VALUE", help="Option of the strategy, as `clora show STRATEGY` tells; repeatable."
        ),
    ] = None,
    density: Annotated[
        float | None, typer.Option(help="Short for --option density=: the share of entries that are kept.")
    ] = None,
    weights: Annotated[
        str | None, typer.Option(help="A number for each adapter, separated by commas; signs are free.")
    ] = None,
    out: Annotated[Path, typer.Option("-o", "--out", callback=writable, help="Folder to write.")] = Path("merged"),
    rank: Annotated[int, typer.Option(help="Cut the result to this rank; the energy that is kept is told.")] = 0,
    dense: Annotated[bool, typer.Option("--dense", help="Write dense deltas, exact for every strategy.")] = False,
    into_model: Annotated[
        Path | None,
        typer.Option(
            "--into-model", callback=writable, help="Write the whole model with the merge added to its weights."
        ),
    ] = None,
    model: ModelOption = None,
    dtype: Annotated[str, typer.Option(help="Type of dense deltas: float32, bfloat16 or float16.")] = "float32",
    seed: Annotated[int, typer.Option(help="Seed of strategies that draw random numbers.")] = 42,
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
    from clora_cli.transforming import MergeOptions, merge_adapters, plan_merge
    from clora_cli.transforming.member import check_apart

    texts = registry.split_options([*(option or ()), *([] if density is None else [f"density={density}"])])
    options = MergeOptions(
        strategy=strategy,
        strategy_options=texts,
        weights=_numbers(weights),
        out=into_model or out,
        rank=rank,
        dense=dense,
        into_model=into_model is not None,
        model=model,
        dtype=dtype,
        seed=seed,
    )
    check_apart(options.out, adapters)
    terminal = Terminal(output)
    plan = plan_merge(read_package(adapters, distinct=False), options, progress=terminal)
    data: dict[str, Any] = {
        "schema": "clora.merge/1",
        "path": str(options.out),
        "strategy": strategy,
        "form": plan.form,
        "rank": plan.rank or None,
        "sites": len(plan.shapes),
        "checked": plan.merger.layers is not None,
        "adapters": [str(member.path) for member in plan.members],
    }
    told = f"{strategy} of {len(plan.members)} adapters at {len(plan.shapes)} sites, {_told(plan)}"
    if dry_run:
        emit(output, text=f"would write {options.out}: {told}", data=data, brief=str(options.out))
        return
    how: dict[str, Any] = {"progress": terminal, "patience": patience(wait, break_lock)}
    path, scores, made = merge_adapters(plan, force=force, argv=command_line(), **how)
    text = f"{path}  ({told}{'' if made else '; up to date'})"
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


def _numbers(weights: str | None) -> tuple[float, ...]:
    if weights is None:
        return ()
    try:
        return tuple(float(text) for text in weights.split(","))
    except ValueError:
        raise typer.BadParameter(f"--weights {weights}: give numbers separated by commas") from None
