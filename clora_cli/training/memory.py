"""Rows of earlier tasks that are trained on again (layer L3)."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

from clora_cli.base.errors import DataError, MismatchError
from clora_cli.base.intake import named_path
from clora_cli.data import Example, Rows, Task, origins_of
from clora_cli.data.made_rows import made_task, read_made
from clora_cli.data.tools import with_model
from clora_cli.methods import Memory
from clora_cli.model.base_model import ModelReference
from clora_cli.store.adapter_folder import AdapterFolder
from clora_cli.store.manifest import Manifest
from clora_cli.training.row_order import run_seed

__all__ = ["read_memory"]


def read_memory(
    memory: Memory, past: Sequence[AdapterFolder], method: str, model: ModelReference, seed: int, new: int
) -> list[Rows]:
    """Draw the rows of a memory from the data of earlier adapters, or from its file.

    Of a memory that is made, only how many rows are wanted of each task is known: empty rows stand for them.

    Args:
        memory: Which rows.
        past: The earlier adapters.
        method: The method's name, for messages.
        model: The base model.
        seed: The run's, for rows of a file.
        new: The new task's number of rows, of which a made memory's share is.

    Raises:
        DataError: If the data of one cannot be found, or the file cannot be read.
        MismatchError: If an adapter does not say what it was trained on, or the data are not what they were.
    """
    if memory.made:
        total = math.ceil(memory.share * new)
        counts = [total * (place + 1) // len(past) - total * place // len(past) for place in range(len(past))]
        return [_wanted(member, count if total else memory.rows) for member, count in zip(past, counts, strict=True)]
    if memory.file:
        return [_some(memory, rows, model, seed) for rows in read_made(named_path(memory.file))]
    return [_drawn(memory, member, method, model) for member in past]


def _wanted(member: AdapterFolder, rows: int) -> Rows:
    template = (member.manifest.data.template if member.manifest else None) or "plain"
    task = made_task(member.task, (), template, f"made by the model of {member.path}")
    return Rows(task, "train", [Example("", "", "", ("",))] * rows, rows)


def _some(memory: Memory, rows: Rows, model: ModelReference, seed: int, member: AdapterFolder | None = None) -> Rows:
    """Return a task's rows, or as many of them as the memory holds: by what ``member`` keeps of them, where it is asked for."""
    known = with_model(rows, model)[0].examples  # training has already warned about rows left out
    limit = math.ceil(memory.share * len(known)) if memory.share else memory.rows
    if not 0 < limit < len(known):
        return Rows(rows.task, "train", known)
    if memory.by and member:
        chosen = _largest(memory.by, member, len(known), limit)
    else:
        chosen = _sample(len(known), limit, seed, rows.task.name)
    return Rows(rows.task, "train", [known[index] for index in chosen], limit, seed)


def _sample(rows: int, limit: int, seed: int, task: str) -> list[int]:
    """Return the places of some rows, in order.

    By a seed of its own: the rows of a distribution or of a training on fewer rows are drawn by the plain one.
    """
    return sorted(random.Random(run_seed(seed, f"{task}/memory")).sample(range(rows), limit))


def _drawn(memory: Memory, member: AdapterFolder, method: str, model: ModelReference) -> Rows:
    manifest = _manifest(member, method)
    task, seed, training = _task(member, manifest, method), manifest.seed, manifest.training
    drawn = Rows.draw(task, "train", training.train_rows or 0, seed, training.learn or "last")
    return _some(memory, drawn, model, seed, member)


def _largest(name: str, member: AdapterFolder, rows: int, limit: int) -> list[int]:
    """Return the places of the rows for which an adapter's method kept the largest numbers, in order."""
    kept = member.state().get(name)
    if kept is None or tuple(kept.shape) != (rows,):
        raise MismatchError(
            f"adapter {member.path} keeps no '{name}' of its {rows} training rows, by which they are to be chosen; train it with the "
            "same method and options",
            code="method-state-missing",
        )
    return sorted(kept.argsort(descending=True, stable=True)[:limit].tolist())


def _manifest(member: AdapterFolder, method: str) -> Manifest:
    if member.manifest is None or member.manifest.data.fingerprint is None:
        raise MismatchError(
            f"--method {method} trains on the rows of earlier tasks again, and adapter {member.path} does not say which it "
            "was trained on; train that task with clora train-task, or choose a method without a memory",
            code="earlier-rows-unknown",
        )
    return member.manifest


def _task(member: AdapterFolder, manifest: Manifest, method: str) -> Task:
    try:
        return origins_of(manifest)[0].load(member.path, "train that task again")
    except (DataError, MismatchError) as error:
        raise type(error)(
            f"--method {method} trains on the rows of '{member.task}' again, and {error}", code=error.code
        ) from error
