"""``clora tasks`` (layer L4)."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import typer

from clora_cli.cli._options import ColumnsOption, JsonOption, QuietOption, complete_task, form
from clora_cli.cli._output import emit

__all__ = ["tasks"]


def tasks(
    name: Annotated[
        str | None,
        typer.Argument(
            help="Load this task and tell its rows and faults.", autocompletion=complete_task, show_default=False
        ),
    ] = None,
    columns: ColumnsOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """List what --data can name, or load one task and tell what is in it.

    Files, folders and Hub ids can be named too: rows with prompt and completion, instruction and input and output,
    text and label, two texts and a label, question and answer, messages, conversations, or chosen answers.

    Example: clora tasks mnli
    """
    output = form(json, quiet)
    from clora_cli.base.registry import split_options
    from clora_cli.data import list_tasks, load_task

    if name is None:
        infos = list_tasks()
        lines = [f"{info.name:<18} {info.family:<12} {info.metric:<12} {info.where}" for info in infos]
        data: dict[str, Any] = {"schema": "clora.tasks/1", "tasks": [asdict(info) for info in infos]}
        emit(output, text="\n".join(lines), data=data, brief="\n".join(info.name for info in infos))
        return
    task = load_task(name, columns=split_options(columns or ()))
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
    data = {
        "schema": "clora.task/1",
        "name": task.name,
        **facts,
        "rows": counts,
        "notes": list(task.notes),
        "fingerprint": task.fingerprint,
    }
    emit(output, text="\n".join(lines), data=data, brief=task.name)
