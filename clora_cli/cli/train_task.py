"""``clora train-task`` (layer L4)."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from clora_cli.cli._declared import takes_declared
from clora_cli.cli._launch import relaunch
from clora_cli.cli._options import ConfigOption, DryRunOption, JsonOption, QuietOption, form
from clora_cli.cli._output import Terminal, emit, results_alone
from clora_cli.cli._waiting import BreakLockOption, WaitOption, command_line, handed_on, patience
from clora_cli.options import TrainOptions
from clora_cli.processes.ranks import is_main_process
from clora_cli.processes.spots import inside

__all__ = ["train_task"]


@takes_declared
def train_task(
    options: TrainOptions,
    resume: Annotated[bool, typer.Option("--resume", help="Continue an interrupted run, if there is one.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace the adapter, discard an unfinished run.")] = False,
    keep_if: Annotated[
        list[str] | None,
        typer.Option(
            "--keep-if",
            metavar="LIMIT=NUMBER",
            help="Put the adapter into the package only if the whole package then meets this limit on the dev rows of all its "
            "tasks: fail-under, max-forgetting, as in clora eval; rows=N scores the first N. Else exit with 5; repeatable.",
        ),
    ] = None,
    wait: WaitOption = None,
    break_lock: BreakLockOption = False,
    config: ConfigOption = None,
    dry_run: DryRunOption = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Train one new adapter on a task, on top of a package.

    Prints the adapter's folder. The same call again finds it up to date.

    Example: clora train-task --method n-lora --data mnli
    """
    output = form(json, quiet)
    with results_alone():
        from clora_cli.api.keeping import parse_gate, train_behind
        from clora_cli.api.learning import with_plugins
        from clora_cli.training import make_plan
        from clora_cli.training import train_task as train

    gate = parse_gate(keep_if or (), options)
    options = with_plugins(options)
    terminal, waiting = Terminal(output), patience(wait, break_lock)
    spot = inside(options.package if options.out is None else options.out.parent)
    relaunch(
        options.nproc,
        dry_run=dry_run,
        switches={"resume": resume, "force": force},
        holding=lambda: handed_on([spot], waiting, terminal),
    )
    with results_alone():
        plan = make_plan(options, terminal)
    if dry_run:
        from clora_cli.training import describe

        description = describe(plan)
        emit(output, text=description.text(), data=description.data(), brief=str(plan.out))
        return
    how: dict[str, Any] = {"argv": command_line(), "progress": terminal, "patience": waiting}
    with results_alone():
        folder, trained = (
            train_behind(gate, plan, resume=resume, force=force, **how)
            if gate
            else train(plan, resume=resume, force=force, **how)
        )
    if not is_main_process():
        return  # there may be no disk that it could read the folder from
    state = "trained" if trained else "up to date"
    data_out: dict[str, Any] = {
        "schema": "clora.train-task/1",
        "adapter": str(folder.path),
        "task": folder.task,
        "stage": folder.stage,
    }
    data_out |= {
        "state": state,
        "sha256": folder.digest,
        "scores": folder.manifest.scores or {} if folder.manifest else {},
    }
    emit(output, text=f"{folder.path}  ({state}, stage {folder.stage})", data=data_out, brief=str(folder.path))
