"""``clora stat-features`` (layer L4)."""

from __future__ import annotations

import dataclasses
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clora_cli.cli._declared import takes_declared
from clora_cli.cli._launch import relaunch
from clora_cli.cli._options import ConfigOption, DryRunOption, JsonOption, QuietOption, form
from clora_cli.cli._output import Form, Terminal, emit
from clora_cli.cli._waiting import BreakLockOption, WaitOption, handed_on, patience
from clora_cli.options import FeatureOptions

if TYPE_CHECKING:
    from clora_cli.transforming import FeaturePlan, FeatureResult

__all__ = ["stat_features"]


@takes_declared
def stat_features(
    adapters: Annotated[
        list[Path], typer.Argument(help="Adapter folders or packages, also bare PEFT folders.", show_default=False)
    ],
    options: FeatureOptions,
    add: Annotated[bool, typer.Option("--add", help="Add these rows to the distributions that are there.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace distributions that were made differently.")] = False,
    wait: WaitOption = None,
    break_lock: BreakLockOption = False,
    config: ConfigOption = None,
    dry_run: DryRunOption = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Give adapters the feature distributions that routing needs: one pass over their tasks' inputs.

    Writes features.clora into each adapter folder and changes nothing else in it, save that --dp-epsilon takes the
    checksum of the private rows out of clora.json. Prints the files' paths. The same call again finds them up to date.

    Example: clora stat-features adapters --second-moment full
    """
    output = form(json, quiet)
    from clora_cli.store.adapter_folder import is_adapter
    from clora_cli.store.package import read_package
    from clora_cli.transforming import plan_features, spots_of, take_features

    members = read_package(adapters, distinct=False)
    packages = [path for path in adapters if not is_adapter(path)]
    named = any(member.base.get("id") for member in members)
    if not options.model and not named:
        options = dataclasses.replace(options, model=os.environ.get("CLORA_MODEL"))
    terminal, waiting = Terminal(output), patience(wait, break_lock)
    relaunch(
        options.nproc,
        dry_run=dry_run,
        switches={"add": add, "force": force},
        holding=lambda: handed_on(spots_of(members, packages), waiting, terminal),
    )
    plan = plan_features(members, options, force=force, add=add, progress=terminal)
    if dry_run:
        _emit_plan(output, plan)
        return
    results = take_features(plan, terminal, patience=waiting, packages=packages)
    emit(
        output,
        text="\n".join(f"{result.member.features}  ({_told(result)})" for result in results),
        data={"schema": "clora.stat-features/1", "distributions": [_data(result) for result in results]},
        brief="\n".join(str(result.member.features) for result in results),
    )


def _told(result: FeatureResult) -> str:
    record = result.distribution.record
    privacy = record.privacy
    second = {"none": "", "diag": " and variances", "full": " and covariances"}[record.second_moment or "none"]
    groups = next(iter(result.distribution.sites.values())).groups
    apart = f" of {len(groups.counts)} {'classes' if record.means == 'class' else 'clusters'}" if groups else ""
    private = f", private with epsilon {privacy.epsilon:g} and delta {privacy.delta:g}" if privacy else ""
    rows, sites = result.distribution.count, len(result.distribution.sites)
    where = f"embeddings of {record.encoder.id}" if record.encoder else f"{sites} {'site' if sites == 1 else 'sites'}"
    return f"{rows} rows, {where}, means{apart}{second}{private}; {result.state}"


def _data(result: FeatureResult) -> dict[str, Any]:
    recorded = ("source", "encoder", "pool", "text", "second_moment", "means", "layer", "module", "data", "privacy")
    return {
        "adapter": str(result.member.path),
        "task": result.member.task,
        "path": str(result.member.features),
        "state": result.state,
        "rows": result.distribution.count,
        "sites": sorted(result.distribution.sites),
        **{name: value for name, value in result.distribution.record.raw.items() if name in recorded},
    }


def _emit_plan(output: Form, plan: FeaturePlan) -> None:
    from clora_cli.transforming import sizes

    lines, entries = [], []
    for job, widths in sizes(plan).items():
        batches = math.ceil(job.count / plan.options.batch_size)
        numbers = {"none": 0, "diag": 8, "full": 4}[plan.options.second_moment]
        square = plan.options.second_moment == "full"
        size = sum(8 * width + numbers * (width * width if square else width) for width in widths.values())
        entry = {"path": str(job.member.features), "task": job.member.task, "state": job.state, "data": job.tasks}
        entries.append({**entry, "rows": job.count, "batches": batches, "sites": widths, "bytes": size})
        lines.append(
            f"{job.member.features}: {job.count} rows of {job.tasks} in {batches} batches, {len(widths)} sites, "
            f"{size / 1024:.0f} KiB; would be {job.state}"
        )
    emit(
        output,
        text="\n".join(lines),
        data={"schema": "clora.plan/1", "distributions": entries},
        brief="\n".join(str(job.member.features) for job in plan.jobs),
    )
