"""Rows of earlier tasks that are trained on again (layer L3)."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Any

from clora_cli.adapter_folder import AdapterFolder
from clora_cli.data import Rows, Task, load_task
from clora_cli.errors import DataError, MismatchError
from clora_cli.manifest import WITHHELD
from clora_cli.methods import Memory
from clora_cli.training.options import run_seed

__all__ = ["read_memory"]


def read_memory(memory: Memory, past: Sequence[AdapterFolder], method: str) -> list[Rows]:
    """Draw the rows of a memory from the data of earlier adapters.

    Args:
        memory: Which rows.
        past: The earlier adapters.
        method: The method's name, for messages.

    Raises:
        DataError: If the data of one cannot be found.
        MismatchError: If an adapter does not say what it was trained on, or the data are not what they were.
    """
    return [_drawn(memory, member, method) for member in past]


def _drawn(memory: Memory, member: AdapterFolder, method: str) -> Rows:
    task, seed = _task(member, method), int(member.manifest["seed"])
    learned = Rows.draw(task, "train", int(member.manifest["training"].get("train_rows", 0)), seed).examples
    limit = math.ceil(memory.share * len(learned)) if memory.share else memory.rows
    if not 0 < limit < len(learned):
        return Rows(task, "train", learned)
    # A seed of its own: the rows of a distribution or of a training on fewer rows are drawn by the plain one.
    chosen = sorted(random.Random(run_seed(seed, f"{task.name}/memory")).sample(range(len(learned)), limit))
    return Rows(task, "train", [learned[index] for index in chosen], limit, seed)


def _task(member: AdapterFolder, method: str) -> Task:
    data = member.manifest.get("data", {})
    if "fingerprint" not in data:
        raise MismatchError(
            f"--method {method} trains on the rows of earlier tasks again, and adapter {member.path} does not say which it "
            "was trained on; train that task with clora train-task, or choose a method without a memory"
        )
    task = _found(data, member, method)
    if data["fingerprint"] not in (WITHHELD, task.fingerprint):
        raise MismatchError(
            f"--method {method} trains on the rows of '{member.task}' again, and {task.source} holds other rows than "
            f"{member.path} was trained on ({data['fingerprint'][:12]} -> {task.fingerprint[:12]}); restore them, or train "
            "that task again"
        )
    return task


def _found(data: dict[str, Any], member: AdapterFolder, method: str) -> Task:
    given = str(data.get("given", data["name"]))
    try:
        return load_task(given, columns=data.get("columns"))
    except DataError as error:
        raise DataError(
            f"--method {method} trains on the rows of '{member.task}' again, which are not there as when {member.path} was "
            f"trained: {error}"
        ) from error
