"""Rows of earlier tasks that are trained on again (layer L3)."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

from clora_cli.base.errors import DataError, MismatchError
from clora_cli.data import Rows, Task, origins_of
from clora_cli.data.tools import with_model
from clora_cli.methods import Memory
from clora_cli.model.base_model import ModelReference
from clora_cli.store.adapter_folder import AdapterFolder
from clora_cli.store.manifest import Manifest
from clora_cli.training.row_order import run_seed

__all__ = ["read_memory"]


def read_memory(memory: Memory, past: Sequence[AdapterFolder], method: str, model: ModelReference) -> list[Rows]:
    """Draw the rows of a memory from the data of earlier adapters.

    Args:
        memory: Which rows.
        past: The earlier adapters.
        method: The method's name, for messages.
        model: The base model.

    Raises:
        DataError: If the data of one cannot be found.
        MismatchError: If an adapter does not say what it was trained on, or the data are not what they were.
    """
    return [_drawn(memory, member, method, model) for member in past]


def _drawn(memory: Memory, member: AdapterFolder, method: str, model: ModelReference) -> Rows:
    manifest = _manifest(member, method)
    task, seed, training = _task(member, manifest, method), manifest.seed, manifest.training
    drawn = Rows.draw(task, "train", training.train_rows or 0, seed, training.learn or "last")
    learned = with_model(drawn, model)[0].examples  # training has already warned about rows left out
    limit = math.ceil(memory.share * len(learned)) if memory.share else memory.rows
    if not 0 < limit < len(learned):
        return Rows(task, "train", learned)
    if memory.by:
        return Rows(
            task, "train", [learned[index] for index in _largest(memory.by, member, len(learned), limit)], limit, seed
        )
    # A seed of its own: the rows of a distribution or of a training on fewer rows are drawn by the plain one.
    chosen = sorted(random.Random(run_seed(seed, f"{task.name}/memory")).sample(range(len(learned)), limit))
    return Rows(task, "train", [learned[index] for index in chosen], limit, seed)


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
