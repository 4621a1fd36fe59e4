"""How far a run is, read from its folder alone (layer L3): whoever carries it out, now or before."""

from __future__ import annotations

import datetime
import math
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from clora_cli.base.errors import CloraError
from clora_cli.processes.holders import Holder, lives, read_lock
from clora_cli.processes.spots import Spot, inside, place
from clora_cli.recipes.journal import Journal, read_journal
from clora_cli.recipes.outcomes import scored_run
from clora_cli.recipes.reading import read_recipe_file
from clora_cli.recipes.recipe import RECIPE, folder_name
from clora_cli.recipes.steps import Step, Unit, units_of
from clora_cli.reporting import summarise
from clora_cli.reporting.cost_rows import CostRow, cost_rows
from clora_cli.reporting.scored_run import Run
from clora_cli.store.adapter_folder import is_adapter
from clora_cli.store.costs import COSTS, Cost, read_costs
from clora_cli.store.side_files import FEATURES, side_file
from clora_cli.store.steady import mark

__all__ = ["RunState"]

_SINCE = "%Y-%m-%d %H:%M:%S %z"


class RunState:
    """Looks at a run's folder as often as it is asked to, and reads again only what changed.

    Args:
        folder: What ``clora run`` writes to.

    Raises:
        CloraError: If no recipe is kept there, or it cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._known: dict[Any, tuple[Any, Any]] = {}
        self._units()

    def data(self) -> dict[str, Any]:
        """Return what there is to show, as JSON data; None stands for what is not known.

        Raises:
            CloraError: If the recipe has gone, or can no longer be read.
        """
        units = self._units()
        recipe = units[0].recipe
        costs, trouble = self._fresh(COSTS, [self._folder / COSTS], lambda: _costs(self._folder))
        return {
            "schema": "clora.run-state/1",
            "recipe": recipe.name,
            "about": recipe.about,
            "model": recipe.model,
            "tasks": [folder_name(task) for task in recipe.tasks],
            "folder": str(self._folder),
            "runs": [self._unit(unit) for unit in units],
            "costs": [_cost_data(row) for row in costs],
            "trouble": trouble,
        }

    def _units(self) -> list[Unit]:
        path = self._folder / RECIPE
        units: list[Unit] = self._fresh(
            RECIPE, [path], lambda: units_of(replace(read_recipe_file(path), out=self._folder))
        )
        return units

    def _unit(self, unit: Unit) -> dict[str, Any]:
        key, log = (unit.entry.label, unit.seed), unit.log
        stages = [unit.scores(stage) for stage in unit.stages]
        journal = self._fresh((*key, "log"), [log], lambda: read_journal(log))
        scored = self._fresh((*key, "scores"), stages, lambda: _scored(unit))
        done = sum(map(_is_made, unit.steps))
        now = _now(unit, journal)
        told = {"method": unit.entry.label, "seed": unit.seed, "done": done, "steps": len(unit.steps)}
        state = "running" if now else _state(unit, journal, done)
        error = "" if now or state == "complete" else journal.error
        losses = {task: sorted(points.items()) for task, points in journal.losses.items()}
        return {**told, "state": state, "now": now, "error": error, **scored, "losses": losses}

    def _fresh(self, key: Any, files: Iterable[Path], read: Any) -> Any:
        """Return what files held when they last changed."""
        marks = [mark(file) for file in files]
        if key not in self._known or self._known[key][0] != marks:
            self._known[key] = marks, read()
        return self._known[key][1]


def _is_made(step: Step) -> bool:
    if step.kind == "eval":
        return step.made.is_file()
    return is_adapter(step.made) and (step.kind == "train" or side_file(step.made, FEATURES).is_file())


def _now(unit: Unit, journal: Journal) -> dict[str, Any] | None:
    """Return the command that is at work for a unit; None if none is."""
    step = next((one for one in unit.steps if (one.kind, one.made.name) == (journal.kind, journal.made)), None)
    if step is None:
        return None
    folder = unit.folder if step.kind == "eval" else unit.trained_in[0]
    holder = _at_work(place(folder / step.words[0]))
    if holder is None:
        return None
    advance = asdict(journal.advance) if journal.advance else {"done": 0, "total": None, "status": ""}
    return {"step": step.kind, "stage": step.stage, "task": step.task, "since": _time(holder.since), **advance}


def _at_work(spot: Spot) -> Holder | None:
    holder = read_lock(spot.lock)
    return holder if holder is not None and lives(holder, spot.lock) else None


def _state(unit: Unit, journal: Journal, done: int) -> str:
    if done == len(unit.steps):
        return "complete"
    if _at_work(inside(unit.folder)) and not journal.error:
        return "waiting"
    return "stopped" if done or journal.kind else "to do"


def _scored(unit: Unit) -> dict[str, Any]:
    """Return a unit's matrix and metrics as far as it is scored."""
    try:
        run = scored_run(unit)
    except CloraError as error:
        return {"matrix": None, "metrics": {}, "trouble": str(error)}
    if run is None:
        return {"matrix": None, "metrics": {}, "trouble": ""}
    metrics = {name: _known(value) for name, value in summarise(run).items()}
    return {"matrix": _matrix(run), "metrics": metrics, "trouble": ""}


def _matrix(run: Run) -> dict[str, Any]:
    rows = [[_known(value) for value in row] for row in run.matrix]
    return {"after": run.order, "tasks": run.columns, "scores": rows, "means": [_known(one) for one in run.trajectory]}


def _costs(folder: Path) -> tuple[list[CostRow], str]:
    path = folder / COSTS
    try:
        costs: list[Cost] = read_costs(path) if path.exists() else []
    except CloraError as error:
        return [], str(error)
    return cost_rows({path: costs}), ""


def _cost_data(row: CostRow) -> dict[str, Any]:
    return {
        "method": row.name,
        "train_seconds": _known(row.train_seconds.mean),
        "eval_seconds": _known(row.eval_seconds.mean),
        "total_seconds": _known(row.total_seconds.mean),
        "peak_memory_bytes": row.peak_memory,
        "peak_device_bytes": row.peak_device,
        "trainable_parameters": _known(row.parameters.mean),
        "adapter_bytes": _known(row.adapter_bytes.mean),
    }


def _known(value: float) -> float | None:
    return round(float(value), 4) if math.isfinite(value) else None


def _time(text: str) -> str | None:
    """Return a moment as every browser reads it; None where the record of it is none."""
    try:
        return datetime.datetime.strptime(text, _SINCE).isoformat()
    except ValueError:
        return None
