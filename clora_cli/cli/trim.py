"""``clora trim`` (layer L4)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clora_cli.cli._declared import takes_declared
from clora_cli.cli._options import ConfigOption, DryRunOption, JsonOption, QuietOption, form, writable
from clora_cli.cli._output import Terminal, emit
from clora_cli.cli._waiting import BreakLockOption, WaitOption, patience
from clora_cli.options import TrimOptions

if TYPE_CHECKING:
    from clora_cli.transforming import TrimPlan

__all__ = ["trim"]

_MANY = 24  # sites that a table names one by one


@takes_declared
def trim(
    adapter: Annotated[Path, typer.Argument(help="Adapter folder; also PEFT's own.", show_default=False)],
    options: TrimOptions,
    reference: Annotated[
        list[Path] | None,
        typer.Option(
            "--reference",
            metavar="PACKAGE",
            help="Package or adapter folder to compare with, for trims that do; repeatable.",
        ),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(
            "--plot", callback=writable, help="Also draw the sorted magnitudes and the cut: .png, .svg or .pdf."
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace another adapter at --out.")] = False,
    wait: WaitOption = None,
    break_lock: BreakLockOption = False,
    config: ConfigOption = None,
    dry_run: DryRunOption = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Trim an adapter to the entries that matter: all others become exact zeros, and a mask says which stay.

    The result is an adapter folder like the one given, with the masks in state.clora; it can take the other's place
    in a package. What was trimmed before stays trimmed.

    Example: clora trim adapters/mnli --by knee --plot knee.png -o trimmed/mnli
    """
    output = form(json, quiet)
    from clora_cli.api.shaping import draw_trim
    from clora_cli.presenting.canvas import check_ending
    from clora_cli.store.adapter_folder import read_adapter
    from clora_cli.store.package import read_package
    from clora_cli.transforming import plan_trim, trim_adapter
    from clora_cli.transforming.member import package_around

    if plot is not None:
        check_ending(plot)
    terminal = Terminal(output)
    members = read_package(reference, distinct=False) if reference else ()
    plan = plan_trim(read_adapter(adapter), options, members, progress=terminal)
    sites = _sites(plan)
    data = _facts(plan, sites)
    if warnings := data["warnings"]:
        more = f" (and {len(warnings) - 1} more of its kind)" if len(warnings) > 1 else ""
        terminal.warn(f"{warnings[0]}{more}")
    if dry_run:
        emit(
            output, text=f"would write {options.out}  {_told(data)}\n{_table(sites)}", data=data, brief=str(options.out)
        )
        return
    how: dict[str, Any] = {"progress": terminal, "patience": patience(wait, break_lock)}
    path, made = trim_adapter(plan, force=force, around=package_around(options.out, reference or (), members), **how)
    if plot is not None:
        draw_trim(plan, plot)
    text = f"{path}  {_told(data)}{'' if made else '; up to date'}\n{_table(sites)}"
    emit(output, text=text, data={**data, "made": made}, brief=str(path))


def _sites(plan: TrimPlan) -> list[dict[str, Any]]:
    return [
        {
            "side": cut.side,
            "site": site,
            "entries": mask.numel(),
            "kept": int(mask.sum()),
            "density": mask.sum().item() / mask.numel(),
            "threshold": cut.threshold,
        }
        for cut in plan.cuts
        for site, mask in cut.masks().items()
    ]


def _facts(plan: TrimPlan, sites: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    from clora_cli.transforming.cuts import warnings_of

    options = plan.options
    sides = {}
    for side in plan.sides:
        cuts = [cut for cut in plan.cuts if cut.side == side]
        kept, entries = (sum(site[key] for site in sites if site["side"] == side) for key in ("kept", "entries"))
        threshold = cuts[0].threshold if len(cuts) == 1 else None
        sides[side] = {"kept": kept, "entries": entries, "density": plan.density(side), "threshold": threshold}
    return {
        "schema": "clora.trim/1",
        "path": str(options.out),
        "adapter": str(plan.member.path),
        "by": options.by,
        "options": plan.entry()["options"],
        "on": options.on,
        "scope": options.scope,
        "seed": options.seed,
        "reference": [str(member.path) for member in plan.reference],
        "sides": sides,
        "sites": list(sites),
        "warnings": warnings_of(plan.cuts, options.scope),
    }


def _told(data: Mapping[str, Any]) -> str:
    parts = []
    for side, side_data in data["sides"].items():
        threshold = "" if side_data["threshold"] is None else f", from {side_data['threshold']:.3g} up"
        parts.append(
            f"{side_data['density']:.2%} of lora_{side}{threshold} ({side_data['kept']} of {side_data['entries']})"
        )
    return f"({data['by']} leaves {' and '.join(parts)})"


def _table(sites: Sequence[Mapping[str, Any]]) -> str:
    """Show each site's density; where there are many, those of each kind of projection."""
    if len(sites) <= _MANY:
        lines = [f"{'factor':<7} {'density':>8}  {'kept':>9} {'of':>9}  site"]
        for site in sites:
            counts = f"{site['kept']:>9} {site['entries']:>9}"
            lines.append(f"lora_{site['side']:<2} {site['density']:>8.2%}  {counts}  {site['site']}")
        return "\n".join(lines)
    kinds: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for site in sites:
        kinds.setdefault((site["side"], site["site"].rpartition(".")[2]), []).append(site)
    lines = [f"{'factor':<7} {'density':>8}  {'least':>8} {'most':>8}  sites"]
    for (side, kind), group in kinds.items():
        shares = [site["density"] for site in group]
        whole = sum(site["kept"] for site in group) / sum(site["entries"] for site in group)
        lines.append(f"lora_{side:<2} {whole:>8.2%}  {min(shares):>8.2%} {max(shares):>8.2%}  {kind} ({len(group)})")
    return "\n".join(lines)
