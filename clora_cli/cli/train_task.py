"""``clora train-task`` (layer L4)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from clora_cli.base import registry
from clora_cli.cli._launch import relaunch
from clora_cli.cli._options import (
    ColumnsOption,
    ConfigOption,
    DeviceOption,
    DryRunOption,
    DtypeOption,
    JsonOption,
    QuietOption,
    RevisionOption,
    complete_method,
    complete_task,
    form,
    writable,
)
from clora_cli.cli._output import Terminal, emit
from clora_cli.cli._waiting import BreakLockOption, WaitOption, command_line, handed_on, patience
from clora_cli.processes.ranks import is_main_process
from clora_cli.processes.spots import Spot, inside

__all__ = ["train_task"]

_METHODS = " | ".join(registry.names("methods"))


def train_task(
    data: Annotated[
        str,
        typer.Option(
            "-d",
            "--data",
            help="Task to learn: a name (clora tasks), a file, a folder or a Hub id.",
            autocompletion=complete_task,
        ),
    ],
    method: Annotated[
        str,
        typer.Option("--method", help=f"Method, or several joined by '+': {_METHODS}.", autocompletion=complete_method),
    ] = "inc-lora",
    option: Annotated[
        list[str] | None,
        typer.Option(
            "-o",
            "--option",
            metavar="KEY=VALUE",
            help="Option of the method, as `clora show METHOD` tells; repeatable.",
        ),
    ] = None,
    model: Annotated[
        str,
        typer.Option(
            "-m",
            "--model",
            envvar=["CLORA_TRAIN_TASK_MODEL", "CLORA_MODEL"],
            help="Base model: clora-nano (bundled), a folder or a Hub id.",
        ),
    ] = "clora-nano",
    revision: RevisionOption = None,
    package: Annotated[
        Path, typer.Option("-p", "--package", callback=writable, help="Folder of the earlier adapters.")
    ] = Path("adapters"),
    out: Annotated[
        Path | None,
        typer.Option("--out", callback=writable, help="Folder of the new adapter; PACKAGE/TASK by default."),
    ] = None,
    rank: Annotated[int, typer.Option(help="LoRA rank.")] = 8,
    alpha: Annotated[float, typer.Option(help="LoRA alpha; the scaling is alpha / rank.")] = 32,
    dropout: Annotated[float, typer.Option(help="LoRA dropout.")] = 0.0,
    target_modules: Annotated[
        list[str] | None,
        typer.Option(
            "--target-modules",
            help="Layer name endings, or all-linear; repeatable. Query and value projections by default.",
        ),
    ] = None,
    epochs: Annotated[float, typer.Option(help="Passes over the training rows.")] = 4,
    max_steps: Annotated[int, typer.Option(help="Optimizer steps instead of epochs; 0 goes by epochs.")] = 0,
    lr: Annotated[
        float | None,
        typer.Option(
            "--lr",
            help="Peak learning rate of AdamW. By default 6e-3 for clora-nano, 1e-3 for encoder-decoders, 3e-4 for others.",
        ),
    ] = None,
    schedule: Annotated[str, typer.Option(help="linear, constant or cosine.")] = "linear",
    warmup_steps: Annotated[int, typer.Option(help="Steps of linear warm-up.")] = 0,
    weight_decay: Annotated[float, typer.Option(help="Weight decay of AdamW.")] = 0.0,
    max_grad_norm: Annotated[float, typer.Option(help="Clip gradients to this norm; 0 does not clip.")] = 1.0,
    batch_size: Annotated[
        int,
        typer.Option("-b", "--batch-size", help="Rows of one forward pass, over all processes."),
    ] = 16,
    grad_accum: Annotated[int, typer.Option(help="Forward passes of one optimizer step.")] = 1,
    max_length: Annotated[int, typer.Option(help="Tokens of a prompt, with the answer in causal models.")] = 512,
    max_answer_length: Annotated[int, typer.Option(help="Tokens of an answer.")] = 64,
    train_rows: Annotated[int, typer.Option(help="Use so many training rows, drawn by the seed; 0 uses all.")] = 0,
    learn: Annotated[
        str, typer.Option(help="Answers of a conversation to learn: last, or all, each after the turns before it.")
    ] = "last",
    columns: ColumnsOption = None,
    dtype: DtypeOption = "auto",
    quantize: Annotated[str, typer.Option(help="none, 4bit or 8bit base weights.")] = "none",
    gradient_checkpointing: Annotated[
        bool,
        typer.Option("--gradient-checkpointing", help="Recompute activations to save memory."),
    ] = False,
    base_dropout: Annotated[
        bool, typer.Option("--base-dropout", help="Keep the base model's own dropout, as T5 and BERT have it.")
    ] = False,
    device: DeviceOption = "auto",
    nproc: Annotated[int, typer.Option(help="Processes; each takes its part of every batch.")] = 1,
    seed: Annotated[int, typer.Option(help="Seed of initial values, data order and dropout.")] = 42,
    save_steps: Annotated[int, typer.Option(help="Steps between checkpoints; 0 makes ten in a run.")] = 0,
    report_to: Annotated[str, typer.Option(help="A tracker of Transformers: wandb, mlflow, tensorboard …")] = "none",
    resume: Annotated[bool, typer.Option("--resume", help="Continue an interrupted run, if there is one.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace the adapter, discard an unfinished run.")] = False,
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
    from clora_cli.training import TrainOptions, make_plan
    from clora_cli.training import train_task as train

    options = TrainOptions(
        data=data,
        method=method,
        method_options=registry.split_options(option or ()),
        model=model,
        revision=revision,
        package=package,
        out=out,
        rank=rank,
        alpha=alpha,
        dropout=dropout,
        target_modules=tuple(target_modules or ()),
        epochs=epochs,
        max_steps=max_steps,
        lr=lr,
        schedule=schedule,
        warmup_steps=warmup_steps,
        weight_decay=weight_decay,
        max_grad_norm=max_grad_norm,
        batch_size=batch_size,
        grad_accum=grad_accum,
        max_length=max_length,
        max_answer_length=max_answer_length,
        train_rows=train_rows,
        learn=learn,
        dtype=dtype,
        quantize=quantize,
        gradient_checkpointing=gradient_checkpointing,
        base_dropout=base_dropout,
        seed=seed,
        device=device,
        columns=registry.split_options(columns or ()),
        save_steps=save_steps,
        report_to=report_to,
    )
    if nproc != 1 and not dry_run:
        with handed_on(_spots(package, out), patience(wait, break_lock), Terminal(output)):
            relaunch(nproc)
    plan = make_plan(options)
    terminal = Terminal(output)
    for note in plan.task.notes:
        terminal.note(f"note: {plan.task.name}: {note}")
    if dry_run:
        from clora_cli.training import describe

        description = describe(plan)
        emit(output, text=description.text(), data=description.data(), brief=str(plan.out))
        return
    how: dict[str, Any] = {"argv": command_line(), "progress": terminal, "patience": patience(wait, break_lock)}
    folder, trained = train(plan, resume=resume, force=force, **how)
    if not is_main_process():
        return  # there may be no disk that it could read the folder from
    state = "trained" if trained else "up to date"
    data_out = {"schema": "clora.train-task/1", "adapter": str(folder.path), "task": folder.task, "stage": folder.stage}
    data_out |= {"state": state, "sha256": folder.digest, "scores": folder.manifest.get("scores", {})}
    emit(output, text=f"{folder.path}  ({state}, stage {folder.stage})", data=data_out, brief=str(folder.path))


def _spots(package: Path, out: Path | None) -> Sequence[Spot]:
    """Return what a launcher holds for its processes; one of these holds nothing more."""
    return [] if "RANK" in os.environ else [inside(package if out is None else out.parent)]
