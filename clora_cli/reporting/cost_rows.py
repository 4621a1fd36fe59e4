"""The cost of learning, method by method, from the steps of all runs (layer L3)."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from clora_cli.reporting.method_results import Spread
from clora_cli.store.costs import Cost

__all__ = ["CostRow", "cost_rows"]


@dataclass(frozen=True)
class CostRow:
    """The cost of a method.

    Attributes:
        name: The method.
        train_seconds: Seconds to train a task.
        eval_seconds: Seconds to evaluate after a task.
        total_seconds: Seconds of all steps of a run.
        peak_memory: The largest peak of main memory over all steps, in bytes; None if it was not measured.
        peak_device: The same of an accelerator's memory; None without one.
        parameters: Parameters trained for a task.
        adapter_bytes: Bytes that a task adds on disk.
    """

    name: str
    train_seconds: Spread
    eval_seconds: Spread
    total_seconds: Spread
    peak_memory: float | None
    peak_device: float | None
    parameters: Spread
    adapter_bytes: Spread


def cost_rows(costs: Mapping[Path, Sequence[Cost]]) -> list[CostRow]:
    """Return a row for each method, in the order of their first step.

    Args:
        costs: The steps by their file; runs of one method and seed in two files are two runs.
    """
    by_method: dict[str, dict[Hashable, list[Cost]]] = {}
    for path, steps in costs.items():
        for step in steps:
            by_method.setdefault(step.method, {}).setdefault((path, step.seed), []).append(step)
    return [_row(name, list(runs.values())) for name, runs in by_method.items()]


def _row(name: str, runs: Sequence[Sequence[Cost]]) -> CostRow:
    steps = [step for run in runs for step in run]
    training = [step for step in steps if step.step == "train"]
    return CostRow(
        name,
        Spread.of([step.seconds for step in training]),
        Spread.of([step.seconds for step in steps if step.step == "eval"]),
        Spread.of([sum(step.seconds for step in run) for run in runs]),
        max((step.peak_memory_bytes for step in steps if step.peak_memory_bytes is not None), default=None),
        max((step.peak_device_bytes for step in steps if step.peak_device_bytes is not None), default=None),
        Spread.of([step.trainable_parameters for step in training if step.trainable_parameters is not None]),
        Spread.of([step.adapter_bytes for step in training if step.adapter_bytes is not None]),
    )
