"""The processes that carry out the commands of ``clora run``: their environment and their devices (layer L4)."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from clora_cli.cli._output import DENSE
from clora_cli.processes.devices import VISIBLE, check_room, jobs_that_fit, share, visible
from clora_cli.processes.meeting import LAUNCH_VARIABLES

if TYPE_CHECKING:
    from clora_cli.recipes.steps import Unit
    from clora_cli.recipes.workers import Worker

__all__ = ["PATIENCE", "Crew"]

# Steps have the options that the recipe says, whatever the environment has for the same commands typed by hand.
_NOT_FOR_STEPS = ("CLORA_TRAIN_TASK_", "CLORA_STAT_FEATURES_", "CLORA_EVAL_")
_SHARED = {"auto", "cuda", "cuda:0"}  # what a worker finds whichever devices it sees
PATIENCE = 10.0  # seconds: far more than the last command of a killed run takes to die


@dataclass(frozen=True)
class Crew:
    """Starts workers.

    Args:
        units: What they are to do.
        jobs: How many at a time.
        devices: The devices that they share out; empty where each sees all of them.
    """

    units: Sequence[Unit]
    jobs: int
    devices: Sequence[str]

    @classmethod
    def of(cls, units: Sequence[Unit], jobs: int | None, per_device: int | None) -> Crew:
        """Return the crew for what the command line asks for.

        Args:
            units: What is to be done.
            jobs: Units at a time; None for as many as there is room for on the devices.
            per_device: Of them on a device; None for any number, or for one where ``jobs`` is None.

        Raises:
            OptionError: If there is no room for so many.
        """
        found, each = _devices(units) if jobs != 1 else [], _each(units)
        if jobs is None:
            jobs = min(jobs_that_fit(len(found), each, per_device or 1), len(units))
        elif per_device is not None:
            check_room(jobs, len(found), each, per_device)
        return cls(units, jobs, found if jobs > 1 else [])

    def worker(self, number: int) -> Worker:
        """Start a worker.

        Args:
            number: Which of those that are there at a time, from 0.
        """
        from clora_cli.recipes.workers import Worker

        environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith((*_NOT_FOR_STEPS, *LAUNCH_VARIABLES)) and name != "CLORA_MODEL"
        }
        environment |= {"PYTHONUNBUFFERED": "1", DENSE: "1"}
        environment |= {f"{prefix}WAIT": f"{PATIENCE:g}" for prefix in ("CLORA_TRAIN_TASK_", "CLORA_STAT_FEATURES_")}
        if self.jobs > 1:
            environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // self.jobs)))
        if self.devices:  # else all would begin with the first
            environment[VISIBLE] = ",".join(share(self.devices, self.jobs, _each(self.units), number))
        ready = ["--ready"] if _may_fork(self.units) else []
        return Worker([sys.executable, "-m", "clora_cli.cli._steps", *ready], environment)


def _devices(units: Sequence[Unit]) -> list[str]:
    """Return the devices that workers share out: none where a recipe says itself which one a command takes."""
    if any(settings.get("device", "auto") not in _SHARED for unit in units for settings in _settings(unit)):
        return []
    import torch

    return visible(os.environ, torch.cuda.device_count)


def _each(units: Sequence[Unit]) -> int | None:
    """Return how many devices a worker's commands take at most; None for as many as they see."""
    counts = [_processes(settings.get("nproc", 1)) for unit in units for settings in _settings(unit)]
    known = [count for count in counts if count is not None]
    return max(known, default=1) if len(known) == len(counts) else None


def _processes(value: Any) -> int | None:
    from clora_cli.recipes.settings import EachTask

    counts = [_processes(one) for one in value.values] if isinstance(value, EachTask) else [value]
    numbers = [count for count in counts if isinstance(count, int)]
    return max(numbers) if len(numbers) == len(counts) else None


def _settings(unit: Unit) -> tuple[Mapping[str, Any], ...]:
    return unit.entry.train, unit.entry.features or {}, unit.entry.eval


def _may_fork(units: Sequence[Unit]) -> bool:
    """Tell whether steps can be forks of a process that has the libraries: where no accelerator takes part."""
    if sys.platform != "linux":
        return False
    import torch

    on_cpu = all(unit.entry.train.get("device") == unit.entry.eval.get("device") == "cpu" for unit in units)
    return on_cpu or not torch.accelerator.is_available()
