"""``clora tasks`` (layer L4)."""

from __future__ import annotations

import shlex
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clora_cli.cli._options import ColumnsOption, JsonOption, QuietOption, complete_task, form
from clora_cli.cli._output import emit

if TYPE_CHECKING:
    from clora_cli.data import Task

__all__ = ["tasks"]


def tasks(
    name: Annotated[
        str | None,
        typer.Argument(
            help="Load this task and tell its rows and faults.", autocompletion=complete_task, show_default=False
        ),
    ] = None,
    columns: ColumnsOption = None,
    lm_eval: Annotated[
        Path | None,
        typer.Option(
            "--lm-eval",
            metavar="FOLDER",
            help="Also write the task for lm_eval --include_path FOLDER: the same prompts, scored alike.",
        ),
    ] = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """List what --data can name, or load one task and tell what is in it.

    Files, folders and Hub ids can be named too: rows with prompt and completion, instruction and input and output,
    text and label, two texts and a label, question and answer, messages, conversations, or chosen answers.

    Example: clora tasks mnli
    """
    output = form(json, quiet)
    from clora_cli.base.errors import OptionError
    from clora_cli.base.registry import split_options
    from clora_cli.data import list_tasks, load_task

    if name is None and lm_eval is not None:
        raise OptionError("--lm-eval writes one task: name it before the option", code="option-missing")
    if name is None:
        infos = list_tasks()
        lines = [f"{info.name:<18} {info.family:<12} {info.metric:<12} {info.where}" for info in infos]
        data: dict[str, Any] = {"schema": "clora.tasks/1", "tasks": [asdict(info) for info in infos]}
        emit(output, text="\n".join(lines), data=data, brief="\n".join(info.name for info in infos))
        return
    task = load_task(name, columns=split_options(columns or ()))
    written = _written(task, lm_eval) if lm_eval else {}
    counts = {"train": len(task.train), "dev": len(task.dev), "test": len(task.test)}
    facts: dict[str, Any] = {
        "source": task.source,
        "template": task.template,
        "metric": task.metric,
        "labels": list(task.labels),
    }
    lines = [task.name, *(f"  {key:<9}{value}" for key, value in (facts | counts).items())]
    lines += [f"  note     {note}" for note in task.notes]
    shown = (task.test or task.train)[0]
    lines += [
        "  prompt   " + shown.prompt.replace("\n", "\n           "),
        "  answer   " + shown.references[0].replace("\n", "\n           "),
    ]
    lines += [f"  written  {line}" for line in written.values()]
    data = {
        "schema": "clora.task/1",
        "name": task.name,
        **facts,
        "rows": counts,
        "notes": list(task.notes),
        "fingerprint": task.fingerprint,
        **written,
    }
    emit(output, text="\n".join(lines), data=data, brief=task.name)


def _written(task: Task, folder: Path) -> dict[str, str]:
    from clora_cli.evaluation.harness_tasks import write_harness_task

    name = write_harness_task(task, folder)
    return {"lm_eval": f"lm_eval run --include_path {shlex.quote(str(folder))} --tasks {name}"}
