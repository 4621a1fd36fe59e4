"""Which steps of a recipe are done already, and whether the rest can start (layer L3)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from clora_cli.base import registry
from clora_cli.base.errors import ArtifactError, DataError, MismatchError, OptionError
from clora_cli.base.files import discard
from clora_cli.base.intake import named_path
from clora_cli.data import Task, load_task
from clora_cli.data.bundled import bundled_name
from clora_cli.data.harness import PREFIX
from clora_cli.data.known_tasks import canonical
from clora_cli.data.naming import split_names
from clora_cli.data.registry_names import REGISTRY, entries_in, entry_of
from clora_cli.data.root import data_root, find
from clora_cli.model.backbone import load_skeleton
from clora_cli.model.base_layers import BaseLayers
from clora_cli.model.base_model import ModelReference, find_model, is_local
from clora_cli.model.linear_layers import find_sites
from clora_cli.options import TrainOptions
from clora_cli.processes.leftovers import sweep
from clora_cli.recipes.recipe import folder_name, unset_variable
from clora_cli.recipes.settings import at_stage, build
from clora_cli.recipes.steps import Step, Unit
from clora_cli.store.adapter_folder import AdapterFolder, is_adapter, read_adapter
from clora_cli.store.package import read_package
from clora_cli.store.scores import Scores, read_scores
from clora_cli.training import make_plan
from clora_cli.training.composition import compose
from clora_cli.transforming import plan_features

__all__ = ["State", "UnitPlan", "check_inputs", "clean", "missing_inputs", "plan_unit", "scores_current", "unchecked"]

State = Literal["up to date", "to resume", "to do", "there, not checked"]


@dataclass(frozen=True)
class UnitPlan:
    """A unit and its progress.

    Attributes:
        unit: The unit.
        states: One for each of its steps.
    """

    unit: Unit
    states: tuple[State, ...]

    @property
    def todo(self) -> list[tuple[Step, State]]:
        """The steps that are not up to date."""
        pairs = zip(self.unit.steps, self.states, strict=True)
        return [(step, state) for step, state in pairs if state != "up to date"]


def missing_inputs(units: Sequence[Unit]) -> list[str]:
    """Name what is missing on this machine, without fetching it."""
    models = dict.fromkeys(unit.model for unit in units)
    notes = [note for model in models if (note := _missing_model(model))]
    tasks = dict.fromkeys(task for unit in units for task in unit.recipe.tasks)
    return notes + [note for task in tasks if (note := _missing_task(task))]


def check_inputs(units: Sequence[Unit]) -> ModelReference:
    """Find the base model and all tasks, and check that they can be trained on and scored.

    Args:
        units: Units of one recipe, at least one.

    Returns:
        The base model.

    Raises:
        CloraError: Whatever is missing, damaged or does not go together, before anything is trained.
    """
    first = units[0]
    if variable := unset_variable(first.model):
        raise OptionError(
            f"recipe {first.recipe.name} runs on the base model that {variable} names: set it, or pass --model",
            code="base-model-unset",
        )
    reference = find_model(first.model, first.recipe.revision)
    tasks: dict[str, Task] = {}
    for unit in units:
        for stage, name in enumerate(unit.scored(len(unit.tasks)), start=1):
            learned = stage <= len(unit.tasks) and not unit.entry.is_union
            columns = at_stage(unit.entry.train, stage).get("columns") if learned else unit.entry.eval.get("columns")
            key = f"{name} {json.dumps(columns)}"
            if key not in tasks:
                tasks[key] = load_task(name, columns=columns)
            _check_task(tasks[key], name, unit, learned=learned)
        if not unit.entry.is_union:
            _check_merges(unit, reference)
    return reference


def plan_unit(unit: Unit, reference: ModelReference) -> UnitPlan:
    """Compare a unit with what is in its folder.

    Raises:
        CloraError: If what is there is damaged, or another recipe made it.
    """
    if unit.entry.is_union:
        done = all(map(is_adapter, unit.adapters)) and scores_current(unit, len(unit.tasks), reference)
        return UnitPlan(unit, ("up to date" if done else "to do",))
    members = {member.path.name: member for member in read_package([unit.package], missing_ok=True)}
    there = _there(unit, members)
    states: list[State] = []
    for step in unit.steps:
        if step.stage > there:
            states.append("to resume" if step.kind == "train" and _work(step.made).is_dir() else "to do")
        elif step.kind == "train":
            _check_made(unit, step, members[step.task])
            states.append("up to date")
        elif step.kind == "stat-features":
            states.append(_features_state(unit, step, members[step.task]))
        else:
            states.append("up to date" if scores_current(unit, step.stage, reference) else "to do")
    return UnitPlan(unit, tuple(states))


def unchecked(unit: Unit) -> UnitPlan:
    """Say what a unit's folder holds, where models and data to compare it with are not here."""
    return UnitPlan(unit, tuple("there, not checked" if step.made.exists() else "to do" for step in unit.steps))


def scores_current(unit: Unit, stage: int, reference: ModelReference) -> bool:
    """Tell whether a stage's scores file holds what evaluating it now would give.

    Raises:
        ArtifactError: If an adapter that was evaluated is damaged.
    """
    try:
        scores = read_scores(unit.scores(stage))
    except ArtifactError:
        return False  # missing, or damaged, or of another version: made again
    members = sorted(
        map(read_adapter, unit.adapters[:stage]), key=lambda member: member.stage or 0
    )  # as `eval` has them
    settings = build("eval", _without_columns(unit.entry.eval))
    wanted = {
        "base": reference.fingerprint,
        "adapters": [(member.task, member.digest) for member in members],
        "tasks": sorted(map(folder_name, unit.scored(stage))),
        "score": settings.score,
        "settings": json.loads(json.dumps(settings.recorded())),
    }
    combine = members[-1].combine if settings.combine == "auto" else settings.combine
    return _held(scores) == wanted and scores.combine == combine


def clean(unit: Unit) -> None:
    """Remove what a killed command left behind: unfinished folders, and checkpoints of what is finished."""
    for folder in (unit.package, unit.folder / "scores"):
        sweep(folder, alone=True)
    for step in unit.steps:
        if step.kind == "train" and step.made.exists():
            discard(_work(step.made))


def train_options(unit: Unit, stage: int) -> TrainOptions:
    """Return the options of a unit's training of one task, as its command has them."""
    settings = at_stage(unit.entry.train, stage)
    options: TrainOptions = build(
        "train",
        settings,
        data=unit.tasks[stage - 1],
        method=unit.entry.method,
        method_options=unit.entry.option_texts(stage),
        model=unit.model,
        revision=unit.recipe.revision,
        package=unit.package,
        seed=unit.seed,
    )
    return options


def _without_columns(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name != "columns"}


def _missing_model(name: str) -> str:
    if is_local(name):
        return ""
    if variable := unset_variable(name):
        return f"the base model is what {variable} names: set it, or pass --model"
    return f"base model '{name}' is no folder here: it would come from the Hub or its cache"


def _missing_task(name: str) -> str:
    name, _ = split_names(name)
    known, root = canonical(name), data_root()
    if name.startswith(PREFIX):
        return ""  # the harness alone knows
    path = named_path(name)
    if bundled_name(name) or path.exists() or entry_of(path) or (root and find(root, name, known)):
        return ""
    if entries_in(path.parent):
        return f"task '{name}' is not here: {path.parent / REGISTRY} has no data set of that name"
    if known and not known.hub:
        return f"task '{name}' is not here: set CLORA_DATA to a folder that has it"
    return f"task '{name}' is not here: it would come from the Hub or its cache, or from CLORA_DATA"


def _check_task(task: Task, name: str, unit: Unit, *, learned: bool) -> None:
    settings = build("eval", _without_columns(unit.entry.eval))
    if task.name != folder_name(name):
        raise OptionError(
            f"task '{name}' is called '{task.name}' in its file; use that name in the recipe",
            code="task-names-disagree",
        )
    for split in ("train", settings.split) if learned else (settings.split,):
        if not getattr(task, split):
            raise DataError(f"task '{task.name}' ({task.source}) has no {split} rows", code="task-has-no-rows")
    if settings.score == "labels" and not task.labels:
        raise OptionError(
            f"task '{task.name}' has no label set to rank; use score: generate", code="task-has-no-labels"
        )


def _check_merges(unit: Unit, reference: ModelReference) -> None:
    """Check that adapters which are to be merged, in training or evaluation, will have what the merge needs."""
    options = train_options(unit, 1)
    method = compose(options.method, options.method_options)
    combine = build("eval", _without_columns(unit.entry.eval)).combine
    wanted = {method.lead.past, method.lead.combine if combine == "auto" else combine}
    kept = {name for part in method.parts.values() for name in part.keeps}
    for name in sorted(wanted.intersection(registry.names("merges"))):
        needs = set(registry.load("merges", name).needs)
        if missing := sorted(needs - {"base"} - kept):
            raise OptionError(
                f"recipe {unit.recipe.name}: {unit.entry.label} merges its adapters by {name}, which needs '{missing[0]}' of "
                f"each, and --method {options.method} keeps none; choose another combine",
                code="merge-state-missing",
            )
        if "base" in needs:
            BaseLayers(reference).stored(find_sites(load_skeleton(reference), options.target_modules))


def _there(unit: Unit, members: Mapping[str, AdapterFolder]) -> int:
    """Return how many tasks the package holds: the first ones of the recipe, in its order."""
    count = len(members)
    wanted = {path.name: stage for stage, path in enumerate(unit.adapters, start=1)}
    for name, member in members.items():
        if wanted.get(name) != member.stage or (member.stage or 0) > count:
            place = f"stage {wanted[name]}" if name in wanted else "no place"
            raise MismatchError(
                f"{member.path} is stage {member.stage} of {count} in its package, and has {place} in recipe "
                f"{unit.recipe.name}; remove {unit.folder}, or pass another --out",
                code="stage-differs",
            )
    return count


def _check_made(unit: Unit, step: Step, member: AdapterFolder) -> None:
    plan = make_plan(train_options(unit, step.stage))
    if changed := member.changes(plan.recipe()):
        raise OptionError(
            f"{member.path} was made by another recipe ({changed}); remove {unit.folder}, or pass another --out",
            code="output-made-differently",
        )


def _features_state(unit: Unit, step: Step, member: AdapterFolder) -> State:
    options = build(
        "stat-features",
        at_stage(unit.entry.features or {}, step.stage),
        data=(unit.tasks[step.stage - 1],),
        seed=unit.seed,
    )
    (job,) = plan_features([member], options).jobs
    return "up to date" if job.state == "up to date" else "to do"


def _held(scores: Scores) -> dict[str, Any] | None:
    """Return what a file of one row was made of; None for any other."""
    if len(scores.rows) != 1:
        return None
    (row,) = scores.rows
    return {
        "base": scores.base.fingerprint,
        "adapters": [(adapter.task, adapter.sha256) for adapter in row.adapters],
        "tasks": sorted(row.scores),
        "score": scores.score,
        "settings": dict(scores.settings),
    }


def _work(adapter: Path) -> Path:
    return adapter.parent / f".{adapter.name}.unfinished"
