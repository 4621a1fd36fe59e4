"""Carry out what is left of a recipe, one or several units at a time (layer L3)."""

from __future__ import annotations

import contextlib
import queue
import shlex
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

from clora_cli.base import registry
from clora_cli.base.errors import ArtifactError, CloraError
from clora_cli.base.files import writing
from clora_cli.model.base_model import ModelReference
from clora_cli.processes import signals
from clora_cli.recipes.planning import UnitPlan, clean, plan_unit, scores_current
from clora_cli.recipes.steps import Step, Unit
from clora_cli.recipes.workers import Outcome, Worker
from clora_cli.store.adapter_folder import read_adapter
from clora_cli.store.costs import COSTS, Cost, append_cost
from clora_cli.store.manifest import MANIFEST
from clora_cli.store.tensors import read_header

__all__ = ["Failure", "Listener", "UnitResult", "carry_out"]


class Listener(Protocol):
    """Listener to the progress of units; called from several threads."""

    def begins(self, unit: Unit, step: Step) -> None:
        """A step begins."""

    def says(self, unit: Unit, line: str) -> None:
        """The step's command said a line."""

    def ends(self, unit: Unit, step: Step, outcome: Outcome) -> None:
        """A step has ended, well or not."""


@dataclass(frozen=True)
class Failure:
    """Why a unit did not finish.

    Attributes:
        step: At which step.
        code: The exit status to end with.
        message: The command's error, in one line.
        when: By the monotonic clock: the first failure's status is the whole run's.
    """

    step: Step
    code: int
    message: str
    when: float = field(default_factory=time.monotonic)


@dataclass(frozen=True)
class UnitResult:
    """How a unit ended.

    Attributes:
        unit: The unit.
        done: Steps that were carried out now.
        failure: Why it stopped, if it failed; None for an interruption.
        complete: Whether all of its steps are done.
    """

    unit: Unit
    done: int
    failure: Failure | None
    complete: bool


class _Crew:
    """Worker processes, as many as units run at a time; the place of one that died is the next one's."""

    def __init__(self, start: Callable[[int], Worker], jobs: int) -> None:
        self._start, self._idle = start, queue.SimpleQueue[tuple[int, Worker]]()
        self._all: list[Worker] = []
        self._free = list(range(jobs))
        self._lock = threading.Lock()
        self.stopped = 0
        self._turns: defaultdict[Path, threading.Lock] = defaultdict(threading.Lock)

    def turn(self, package: Path) -> contextlib.AbstractContextManager[Any]:
        """Have units that share a package take turns."""
        with self._lock:
            return self._turns[package]

    @contextlib.contextmanager
    def worker(self) -> Iterator[Worker]:
        """Lend a worker."""
        try:
            number, worker = self._idle.get_nowait()
        except queue.Empty:
            with self._lock:
                number = self._free.pop(0)
                worker = self._start(number)
                self._all.append(worker)
        if self.stopped:
            worker.stop(self.stopped)
        yield worker
        if worker.alive:
            self._idle.put((number, worker))
        else:
            with self._lock:
                self._free.append(number)

    def stop(self, number: int) -> None:
        """Send every running command a signal, and begin no more."""
        self.stopped = number
        for worker in list(self._all):
            worker.stop(number)

    def close(self) -> None:
        """End all workers."""
        for worker in self._all:
            worker.close()


def carry_out(
    plans: Sequence[UnitPlan],
    reference: ModelReference,
    start: Callable[[int], Worker],
    *,
    jobs: int,
    listener: Listener,
) -> tuple[list[UnitResult], bool]:
    """Carry out units; one that fails does not stop the others.

    Args:
        plans: From ``plan_unit``; their folders are this process's alone.
        reference: The base model.
        start: Starts a worker process; told which of those at a time it is, from 0.
        jobs: Units at a time, at least 1.
        listener: Who to tell.

    Returns:
        A result for each plan, in their order, and whether it was interrupted.
    """
    crew = _Crew(start, jobs)
    try:
        with _interruptible(crew), ThreadPoolExecutor(jobs) as pool:
            futures: list[Future[UnitResult]] = []
            for plan in plans:
                parts = [earlier for other, earlier in zip(plans, futures, strict=False) if _is_part(other, plan)]
                futures.append(pool.submit(_in_turn, plan, reference, crew, listener, parts))
            wait(futures)
    finally:
        crew.close()
    return [future.result() for future in futures], bool(crew.stopped)


def _is_part(other: UnitPlan, plan: UnitPlan) -> bool:
    """Tell whether a unit trains adapters that another one, a union, only evaluates."""
    return plan.unit.entry.is_union and not other.unit.entry.is_union and other.unit.package in plan.unit.packages


def _in_turn(
    plan: UnitPlan, reference: ModelReference, crew: _Crew, listener: Listener, parts: Sequence[Future[UnitResult]]
) -> UnitResult:
    wait(parts)  # which were handed to the pool before, so that they run or are done
    with crew.turn(plan.unit.package):
        if not plan.unit.entry.adapters_of:
            return _unit(plan, reference, crew, listener)
        try:  # planned before the adapters were there
            plan = plan_unit(plan.unit, reference)
        except CloraError as error:
            return UnitResult(plan.unit, 0, Failure(plan.unit.steps[0], error.exit_code, str(error)), complete=False)
        return _unit(plan, reference, crew, listener)


def _unit(plan: UnitPlan, reference: ModelReference, crew: _Crew, listener: Listener) -> UnitResult:
    unit, done = plan.unit, 0
    try:
        clean(unit)
        for step, state in plan.todo:
            if crew.stopped:
                return UnitResult(unit, done, None, complete=False)
            # A stage that was trained again after its scores were written has the same scores if it has the same bytes.
            if step.kind == "eval" and scores_current(unit, step.stage, reference):
                continue
            with crew.worker() as worker:
                outcome = _step(worker, unit, step, listener)
            listener.ends(unit, step, outcome)
            if outcome.code:
                failure = None if crew.stopped else Failure(step, outcome.code, outcome.message)
                return UnitResult(unit, done, failure, complete=False)
            done += 1
            append_cost(unit.recipe.out / COSTS, _cost(unit, step, outcome, resumed=state == "to resume"))
    except CloraError as error:
        return UnitResult(unit, done, Failure(step, error.exit_code, str(error)), complete=False)
    return UnitResult(unit, done, None, complete=True)


def _step(worker: Worker, unit: Unit, step: Step, listener: Listener) -> Outcome:
    listener.begins(unit, step)
    with _log(unit.log) as log:
        log(f"$ clora {shlex.join(step.words)}")

        def told(line: str) -> None:
            log(line)
            listener.says(unit, line)

        return worker.run(step.words, unit.folder if step.kind == "eval" else unit.trained_in[0], told)


@contextlib.contextmanager
def _log(path: Path) -> Iterator[Callable[[str], Any]]:
    with writing(path), path.open("a", encoding="utf-8", buffering=1) as file:
        yield lambda line: file.write(f"{line}\n")


def _cost(unit: Unit, step: Step, outcome: Outcome, *, resumed: bool) -> Cost:
    numbers, size = (None, None) if step.kind == "eval" else _size(step.made, unit.entry.method)
    return Cost(
        method=unit.entry.label,
        seed=unit.seed,
        task=step.task,
        stage=step.stage,
        step=step.kind,
        seconds=round(outcome.seconds, 3),
        peak_memory_bytes=outcome.peak_memory,
        peak_device_bytes=outcome.peak_device,
        trainable_parameters=numbers,
        adapter_bytes=size,
        resumed=resumed,
    )


def _size(adapter: Path, method: str) -> tuple[int, int]:
    """Return how many numbers of an adapter were trained, those beside its LoRA too, and how many bytes its tensor files are."""
    lead = registry.load("methods", method.split("+", maxsplit=1)[0])
    fixed = ".lora_A." if lead.fixed_a or lead.start == "shared" else None
    try:
        header, _ = read_header(adapter / "adapter_model.safetensors")
        stored = sum(file.stat().st_size for file in adapter.iterdir() if file.suffix in {".safetensors", ".clora"})
        manifest = read_adapter(adapter).manifest if (adapter / MANIFEST).is_file() else None
        scores = (manifest and manifest.scores) or {}
    except (OSError, ValueError) as error:
        raise ArtifactError(
            f"adapter {adapter} is damaged ({error}); remove it and run again", code="adapter-damaged"
        ) from error
    sizes = {name: prod(entry["shape"]) for name, entry in header.items()}
    if manifest and manifest.lora.form == "full-rank":  # of each pair one is the identity
        trained = [
            max(size, sizes[name.replace(".lora_A.", ".lora_B.")]) for name, size in sizes.items() if ".lora_A." in name
        ]
    else:
        trained = [size for name, size in sizes.items() if lead.trains and not (fixed and fixed in name)]
    return sum(trained) + scores.get("beside_the_lora", {}).get("trained", 0), stored


@contextlib.contextmanager
def _interruptible(crew: _Crew) -> Iterator[None]:
    """Pass what ends this process on to the running commands, which then keep what they need to continue."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def passed_on(number: int, frame: FrameType | None) -> None:
        signals.note(number)
        crew.stop(number)

    with signals.handled(passed_on):
        yield
