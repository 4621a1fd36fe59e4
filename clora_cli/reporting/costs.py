"""What learning cost: ``cost.jsonl``, one step a line, summed up by method (layer L3)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clora_cli.errors import ArtifactError
from clora_cli.reporting._places import place
from clora_cli.reporting.results import Spread

__all__ = ["COST_SCHEMA", "Cost", "CostRow", "cost_rows", "read_costs"]

COST_SCHEMA = "clora.cost/1"
_NUMBERS = ("seconds", "peak_memory_bytes", "peak_device_bytes", "trainable_parameters", "adapter_bytes")


@dataclass(frozen=True)
class Cost:
    """One step of a run.

    Attributes:
        name: What the run is called: its folder's name, else its method's.
        root: The folder that holds the runs.
        seed: Its seed.
        task: The task that was learned last.
        stage: Its position, from 1.
        step: ``train``, ``eval`` or what else was done for the task, such as ``stat-features``.
        seconds: Wall-clock time.
        peak_memory_bytes: The largest main memory in use; None where it was not measured.
        peak_device_bytes: The largest memory of an accelerator; None without one.
        trainable_parameters: Numbers that were trained; None for an evaluation.
        adapter_bytes: Size of the adapter folder on disk; None for an evaluation.
    """

    name: str
    root: str
    seed: int | None
    task: str
    stage: int
    step: str
    seconds: float
    peak_memory_bytes: float | None
    peak_device_bytes: float | None
    trainable_parameters: float | None
    adapter_bytes: float | None


@dataclass(frozen=True)
class CostRow:
    """What a method cost.

    Attributes:
        name: The method.
        train_seconds: Training a task.
        eval_seconds: Evaluating after a task.
        total_seconds: A whole run, all steps.
        peak_memory: Bytes of main memory, the largest of all steps; None where nobody measured it.
        peak_device: Bytes of an accelerator's memory; None without one.
        parameters: Trained for a task.
        adapter_bytes: Added on disk by a task.
    """

    name: str
    train_seconds: Spread
    eval_seconds: Spread
    total_seconds: Spread
    peak_memory: float | None
    peak_device: float | None
    parameters: Spread
    adapter_bytes: Spread


def read_costs(path: Path) -> list[Cost]:
    """Read a cost file: of a step that was done again the last line counts, and a last line that was cut off does not.

    Raises:
        ArtifactError: If it cannot be read, or a line is no cost.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise ArtifactError(f"cost file {path} cannot be read ({error}); leave it out") from error
    if lines and not _is_json(lines[-1]):  # the run was stopped while it wrote
        lines.pop()
    costs = [_cost(path, number, line) for number, line in enumerate(lines, start=1) if line.strip()]
    return list({(cost.name, cost.seed, cost.stage, cost.task, cost.step): cost for cost in costs}.values())


def cost_rows(costs: Sequence[Cost]) -> list[CostRow]:
    """Sum up by method, in the order in which they are first met."""
    return [_row(name, [cost for cost in costs if cost.name == name]) for name in dict.fromkeys(c.name for c in costs)]


def _cost(path: Path, number: int, line: str) -> Cost:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ArtifactError(
            f"{path}, line {number}: not JSON ({error}); remove the line or leave the file out"
        ) from error
    if not isinstance(entry, dict) or entry.get("schema") != COST_SCHEMA:
        raise ArtifactError(f"{path}, line {number}: no schema '{COST_SCHEMA}'; give the cost.jsonl of a run")
    numbers: dict[str, Any] = {name: entry.get(name) for name in _NUMBERS}
    odd = [
        name for name, value in numbers.items() if not _is_number(value) and (value is not None or name == "seconds")
    ]
    odd += [name for name in ("method", "task", "step") if not isinstance(entry.get(name), str)]
    odd += ["stage"] * (not isinstance(entry.get("stage"), int))
    if odd:
        raise ArtifactError(f"{path}, line {number}: {odd[0]} is not what it should be; remove the line")
    where = place(path.resolve())
    seed = where.seed if where.seed is not None else entry.get("seed")
    name = where.name or entry["method"]
    return Cost(
        name, where.root or str(path.resolve().parent), seed, entry["task"], entry["stage"], entry["step"], **numbers
    )


def _is_json(line: str) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value >= 0


def _row(name: str, costs: Sequence[Cost]) -> CostRow:
    training = [cost for cost in costs if cost.step == "train"]
    runs: dict[object, list[float]] = {(cost.root, cost.seed): [] for cost in costs}
    for cost in costs:
        runs[cost.root, cost.seed].append(cost.seconds)
    return CostRow(
        name,
        Spread.of([cost.seconds for cost in training]),
        Spread.of([cost.seconds for cost in costs if cost.step == "eval"]),
        Spread.of([sum(each) for each in runs.values()]),
        max((cost.peak_memory_bytes for cost in costs if cost.peak_memory_bytes is not None), default=None),
        max((cost.peak_device_bytes for cost in costs if cost.peak_device_bytes is not None), default=None),
        Spread.of([cost.trainable_parameters for cost in training if cost.trainable_parameters is not None]),
        Spread.of([cost.adapter_bytes for cost in training if cost.adapter_bytes is not None]),
    )
