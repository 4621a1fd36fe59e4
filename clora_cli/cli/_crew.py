"""The processes that carry out the commands of ``clora run``: their environment and their devices (layer L4)."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from clora_cli.cli._output import DENSE
from clora_cli.processes.meeting import LAUNCH_VARIABLES

if TYPE_CHECKING:
    from clora_cli.recipes.steps import Unit
    from clora_cli.recipes.workers import Worker

__all__ = ["PATIENCE", "worker"]

# Steps have the options that the recipe says, whatever the environment has for the same commands typed by hand.
_NOT_FOR_STEPS = ("CLORA_TRAIN_TASK_", "CLORA_STAT_FEATURES_", "CLORA_EVAL_")
PATIENCE = 10.0  # seconds: far more than the last command of a killed run takes to die


def worker(units: Sequence[Unit], jobs: int, number: int) -> Worker:
    from clora_cli.recipes.workers import Worker

    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith((*_NOT_FOR_STEPS, *LAUNCH_VARIABLES)) and name != "CLORA_MODEL"
    }
    environment |= {"PYTHONUNBUFFERED": "1", DENSE: "1"}
    environment |= {f"{prefix}WAIT": f"{PATIENCE:g}" for prefix in ("CLORA_TRAIN_TASK_", "CLORA_STAT_FEATURES_")}
    if jobs > 1:
        environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // jobs)))
        if len(devices := _devices(units)) > 1:  # else all would share the first
            environment["CUDA_VISIBLE_DEVICES"] = devices[number % len(devices)]
    ready = ["--ready"] if _may_fork(units) else []
    return Worker([sys.executable, "-m", "clora_cli.cli._steps", *ready], environment)


def _devices(units: Sequence[Unit]) -> list[str]:
    """Return the names of the GPUs that workers may share out: none where a command takes several by itself."""
    if any(settings.get("nproc", 1) != 1 for unit in units for settings in _settings(unit)):
        return []
    if (visible := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [name for name in visible.split(",") if name]
    import torch

    return [str(index) for index in range(torch.cuda.device_count())]


def _settings(unit: Unit) -> tuple[Mapping[str, Any], ...]:
    return unit.entry.train, unit.entry.features or {}, unit.entry.eval


def _may_fork(units: Sequence[Unit]) -> bool:
    """Tell whether steps can be forks of a process that has the libraries: where no accelerator takes part."""
    if sys.platform != "linux":
        return False
    import torch

    on_cpu = all(unit.entry.train.get("device") == unit.entry.eval.get("device") == "cpu" for unit in units)
    return on_cpu or not torch.accelerator.is_available()
