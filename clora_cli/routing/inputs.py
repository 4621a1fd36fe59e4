"""Inputs to be routed, from tasks and from rows, one after another (layer L1)."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

from clora_cli.base.errors import DataError
from clora_cli.data import Example, Task
from clora_cli.data.columns import prompt_of
from clora_cli.data.pictures import Picture
from clora_cli.data.readers import Record

T = TypeVar("T")

__all__ = ["Input", "in_batches", "inputs_of_rows", "inputs_of_task", "read_spelled", "spelled"]


@dataclass(frozen=True, eq=False, slots=True)
class Input:
    """One input.

    Attributes:
        example: Its prompt.
        fields: What the output says of it beside where it goes.
        where: The place that it came from, for messages.
        task: Its task, if it is known, else "".
        chat: Whether it is a conversation, for tokenizers with a chat template.
    """

    example: Example
    fields: Mapping[str, object]
    where: str
    task: str = ""
    chat: bool = False


def inputs_of_task(task: Task, split: str, limit: int = 0) -> list[Input]:
    """Return a task's inputs, with the task's name and their row from 1 as their fields.

    Args:
        task: The task.
        split: ``train``, ``dev`` or ``test``.
        limit: The first so many; 0 for all.

    Raises:
        DataError: If the split is empty.
    """
    examples = getattr(task, split)[: limit or None]
    if not examples:
        raise DataError(f"task '{task.name}' ({task.source}) has no {split} rows", code="task-has-no-rows")
    chat = task.template == "chat"
    return [
        Input(example, {"task": task.name, "row": row}, f"{task.name}, {split} row {row}", task.name, chat)
        for row, example in enumerate(examples, start=1)
    ]


def inputs_of_rows(
    records: Iterable[Record], columns: Mapping[str, str] | None = None, limit: int = 0
) -> Iterator[Input]:
    """Yield rows as inputs that keep all their fields; a text in ``task`` is the input's task.

    Args:
        records: The rows, none of which is asked for before its turn.
        columns: Role to column name.
        limit: The first so many; 0 for all.

    Raises:
        CloraError: As ``prompt_of``.
    """
    for record in islice(records, limit or None):
        task, example = record.values.get("task"), prompt_of(record, columns)
        fields = _without_bytes(record.values) if example.picture else record.values
        yield Input(example, fields, record.where, task if isinstance(task, str) else "", bool(example.turns))


def _without_bytes(fields: Mapping[str, object]) -> dict[str, object]:
    """Return what JSON can say of a row with an image."""
    told = {name: _without_bytes(cell) if isinstance(cell, Mapping) else cell for name, cell in fields.items()}
    return {name: None if isinstance(cell, bytes) else cell for name, cell in told.items()}


def in_batches(inputs: Iterable[T], size: int) -> Iterator[list[T]]:
    """Yield inputs in lists of ``size``, the last one shorter; what came before a bad one is yielded before the error."""
    batch: list[T] = []
    try:
        for one in inputs:
            batch.append(one)
            if len(batch) == size:
                yield batch
                batch = []
    except DataError:
        if batch:
            yield batch
        raise
    if batch:
        yield batch


def spelled(inputs: Iterable[Input]) -> bytes:
    """Return what another process needs to read inputs' features."""
    rows = [
        [row.head, row.body, row.cue, row.turns, _bytes_of(row), one.where, one.chat]
        for one, row in ((one, one.example) for one in inputs)
    ]
    return json.dumps(rows).encode()


def _bytes_of(example: Example) -> str:
    """Return a row's image as text; empty of a text. Another machine may not have its file."""
    return base64.b64encode(example.picture.read()).decode("ascii") if example.picture else ""


def read_spelled(text: bytes) -> list[Input]:
    """Return the inputs that ``spelled`` was given, with the fields that it keeps."""
    found = []
    for head, body, cue, turns, image, where, chat in json.loads(text):
        picture = Picture.of_bytes(base64.b64decode(image), where) if image else None
        example = Example(head, body, cue, (), tuple((role, text) for role, text in turns), picture=picture)
        found.append(Input(example, {}, where, chat=chat))
    return found
