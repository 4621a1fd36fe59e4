"""What adapters keep of their own training: the loss of each step, and how related a method found earlier tasks (layer L3)."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from clora_cli.base.errors import ArtifactError
from clora_cli.base.intake import read_text
from clora_cli.store.adapter_folder import AdapterFolder

__all__ = ["LOG", "TrainingLog", "read_log", "relations_of"]

LOG = "log.jsonl"


@dataclass(frozen=True)
class TrainingLog:
    """The log of one adapter's training.

    Attributes:
        task: The adapter's task.
        steps: The optimizer steps that were logged, from 1.
        losses: The task's loss at each of them, without penalties; NaN where it was not finite.
    """

    task: str
    steps: Sequence[int]
    losses: Sequence[float]


def read_log(member: AdapterFolder) -> TrainingLog | None:
    """Return the log that an adapter's folder keeps; None if it keeps none.

    Raises:
        ArtifactError: If the log is damaged.
    """
    path = member.path / LOG
    if not path.is_file():
        return None
    try:
        records = [json.loads(line) for line in read_text(path).splitlines()]
        pairs = [(int(record["step"]), record["loss"]) for record in records if "loss" in record]
        losses = [math.nan if loss is None or not math.isfinite(loss) else float(loss) for _, loss in pairs]
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise ArtifactError(
            f"{path} is no log of a training ({error}); remove it, or train the adapter again", code="log-damaged"
        ) from error
    return TrainingLog(member.task, [step for step, _ in pairs], losses)


def relations_of(members: Sequence[AdapterFolder]) -> dict[str, dict[str, float]]:
    """Return how related each adapter's method found the earlier ones: by task, then by earlier task, in [-1, 1].

    ``aso-lora`` records it (its w, eq. 13); adapters of methods that record nothing are left out.
    """
    found: dict[str, dict[str, float]] = {}
    for member in members:
        scores = (member.manifest.scores if member.manifest else None) or {}
        relations: Mapping[str, Mapping[str, float]] = scores.get("relations") or {}
        for by_task in relations.values():
            found.setdefault(member.task, {}).update({task: float(value) for task, value in by_task.items()})
    return found
