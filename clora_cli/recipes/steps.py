"""A recipe as commands, in the order to type them (layer L3)."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from clora_cli.base.errors import UnknownNameError
from clora_cli.recipes.recipe import MethodEntry, Recipe, folder_name, resolved_model
from clora_cli.recipes.settings import at_stage, spelled, words_of

__all__ = ["Kind", "Step", "Unit", "script", "units_of"]

Kind = Literal["train", "stat-features", "eval"]


@dataclass(frozen=True)
class Step:
    """One command.

    Attributes:
        kind: What it does.
        stage: Of which task, from 1.
        task: Its adapter folder's name.
        words: The command line, without ``clora``.
        made: The adapter folder or the scores file that it makes.
    """

    kind: Kind
    stage: int
    task: str
    words: tuple[str, ...]
    made: Path


@dataclass(frozen=True, eq=False)
class Unit:
    """One method with one seed: the steps from the first task to the last.

    Attributes:
        recipe: The recipe.
        entry: The method with its settings.
        seed: The seed.
        model: The base model, as the commands name it.
    """

    recipe: Recipe
    entry: MethodEntry
    seed: int
    model: str

    @property
    def name(self) -> str:
        """The unit in words: ``n-lora, seed 42``."""
        return f"{self.entry.label}, seed {self.seed}"

    @property
    def folder(self) -> Path:
        """The folder of everything that it makes."""
        return self.recipe.out / self.entry.label / f"seed-{self.seed}"

    @property
    def tasks(self) -> tuple[str, ...]:
        """What it has learned at the end, as ``--data`` takes it, in order."""
        return tuple(task for entry in self._trained for task in self.recipe.learned_by(entry))

    @property
    def stages(self) -> range:
        """The stages after which it is scored."""
        last = len(self.tasks)
        return range(last if self.entry.is_union or self.entry.stages == "last" else 1, last + 1)

    @property
    def packages(self) -> tuple[Path, ...]:
        """The packages that grow task by task: its own, another method's where that trains alike, or those of several methods."""
        return tuple(folder / "adapters" for folder in self.trained_in)

    @property
    def package(self) -> Path:
        """The first of its packages; unless it is a union, the only one."""
        return self.packages[0]

    @property
    def trained_in(self) -> tuple[Path, ...]:
        """The folders of the units that the packages belong to."""
        return tuple(self.recipe.out / entry.label / f"seed-{self.seed}" for entry in self._trained)

    @property
    def _trained(self) -> tuple[MethodEntry, ...]:
        """The methods whose adapters these are."""
        if not self.entry.adapters_of:
            return (self.entry,)
        return tuple(entry for entry in self.recipe.methods if entry.label in self.entry.adapters_of)

    @property
    def log(self) -> Path:
        """The log of its commands."""
        return self.folder / "run.log"

    def adapter(self, stage: int) -> Path:
        """Return the adapter folder of a task, by its stage."""
        return self.adapters[stage - 1]

    @cached_property
    def adapters(self) -> tuple[Path, ...]:
        """The adapter folders, in the order of ``tasks``."""
        pairs = zip(self.packages, self._trained, strict=True)
        return tuple(p / folder_name(task) for p, entry in pairs for task in self.recipe.learned_by(entry))

    def scores(self, stage: int) -> Path:
        """Return the scores file of a stage."""
        return self.folder / "scores" / f"{stage}-{self.adapter(stage).name}.json"

    def scored(self, stage: int) -> tuple[str, ...]:
        """Return what ``--data`` names at the evaluation of a stage."""
        learned = self.tasks[:stage]
        return (
            (*learned, *(task for task in self.recipe.tasks if task not in learned)) if self.entry.unseen else learned
        )

    @cached_property
    def steps(self) -> tuple[Step, ...]:
        """All commands, in order."""
        return tuple(step for stage in range(1, len(self.tasks) + 1) for step in self._steps(stage))

    def _steps(self, stage: int) -> Iterator[Step]:
        adapter = self.adapter(stage)
        if not self.entry.is_union:
            yield Step("train", stage, adapter.name, tuple(self._train(stage)), adapter)
        if self.entry.features is not None:
            words = ["stat-features", str(adapter), "--data", self.tasks[stage - 1]]
            words += words_of(at_stage(self.entry.features, stage))
            yield Step("stat-features", stage, adapter.name, (*words, "--seed", str(self.seed)), adapter)
        if stage in self.stages:
            yield Step("eval", stage, adapter.name, tuple(self._eval(stage)), self.scores(stage))

    def _train(self, stage: int) -> list[str]:
        words = ["train-task", "--method", self.entry.method, "--data", self.tasks[stage - 1]]
        words += ["--model", self.model, *self._revision(), "--package", str(self.package)]
        words += words_of(at_stage(self.entry.train, stage))
        for name, value in at_stage(self.entry.option, stage).items():
            words += ["-o", f"{name}={spelled(value)}"]
        return [*words, "--seed", str(self.seed), "--resume"]

    def _eval(self, stage: int) -> list[str]:
        words = ["eval", *(str(self.adapter(number)) for number in range(1, stage + 1))]
        words += ["--model", self.model, *self._revision()]
        words += [word for task in self.scored(stage) for word in ("--data", task)]
        return [*words, *words_of(at_stage(self.entry.eval, stage)), "--out", str(self.scores(stage))]

    def _revision(self) -> list[str]:
        return ["--revision", self.recipe.revision] if self.recipe.revision else []


def units_of(recipe: Recipe, only: Sequence[str] = ()) -> list[Unit]:
    """Return the methods and seeds of a recipe, or those of some methods.

    Args:
        recipe: The recipe.
        only: Labels of methods; empty for all.

    Raises:
        UnknownNameError: If the recipe has no such method.
    """
    labels = [entry.label for entry in recipe.methods]
    for label in only:
        if label not in labels:
            raise UnknownNameError(f"method of {recipe.name}", label, labels)
    chosen = [entry for entry in recipe.methods if not only or entry.label in only]
    model = resolved_model(recipe)
    return [Unit(recipe, entry, seed, model) for entry in chosen for seed in recipe.seeds]


def script(recipe: Recipe, units: Sequence[Unit]) -> str:
    """Return the shell script that does what ``clora run`` does, step by step."""
    lines = ["#!/usr/bin/env bash", f"# {recipe.name}: what `clora run` does, as single commands.", "set -euo pipefail"]
    lines += ["# Options come from here alone, not from the environment.", _UNSET]
    for unit in units:
        lines += ["", f"# {unit.name}", *(f"# {line}" for line in _told(unit.entry))]
        lines += [f"clora {shlex.join(step.words)}" for step in unit.steps]
    return "\n".join(lines) + "\n"


def _told(entry: MethodEntry) -> list[str]:
    """Return what a method is and where its settings come from, in lines."""
    about = [entry.about] if entry.about else []
    return about + [f"{', '.join(names)}: {source}" for source, names in entry.sources.items()]


# The same variables that the engine keeps from its steps; CLORA_DATA stays.
_UNSET = (
    'for name in ${!CLORA_TRAIN_TASK_@} ${!CLORA_STAT_FEATURES_@} ${!CLORA_EVAL_@} CLORA_MODEL; do unset "$name"; done'
)
