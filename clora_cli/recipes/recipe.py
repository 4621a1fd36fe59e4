"""A recipe: one order of tasks, one base model, one or several methods, seeds (layer L3)."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clora_cli.data.bundled import bundled_name
from clora_cli.data.harness import PREFIX
from clora_cli.data.layouts import task_name
from clora_cli.data.naming import split_names
from clora_cli.data.readers import is_readable
from clora_cli.data.texts import bare
from clora_cli.recipes.orders import named_orders
from clora_cli.recipes.settings import EachTask, at_stage, spelled

__all__ = [
    "RECIPE",
    "MethodEntry",
    "Recipe",
    "folder_name",
    "named_order",
    "resolved_model",
    "to_yaml",
    "unset_variable",
]

RECIPE = "recipe.yaml"  # in the folder of a run: what it carries out
_VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+))")


@dataclass(frozen=True, kw_only=True)
class MethodEntry:
    """One method with all that is set for it; values are ``EachTask`` where there is one for each task.

    Attributes:
        label: The name of its folder.
        method: What ``--method`` takes; empty for a union of several methods' adapters.
        about: A line on where its settings come from.
        option: The method's options by name.
        train: Options of ``clora train-task``.
        features: Options of ``clora stat-features`` after each training; None to take no features.
        eval: Options of ``clora eval``.
        learns: The tasks that it learns, in order; empty for all of the recipe's.
        stages: After which tasks it is scored: ``all``, or the ``last`` alone.
        unseen: Whether tasks that are not learned yet, or never, are scored too.
        sources: Where settings come from, for people: what says so, to their names, such as ``train.lr``.
        adapters_of: Labels of earlier methods whose adapters are evaluated here: of one that trains alike, or of several together.
            Empty for its own.
    """

    label: str
    method: str
    about: str = ""
    option: Mapping[str, Any] = field(default_factory=dict)
    train: Mapping[str, Any] = field(default_factory=dict)
    features: Mapping[str, Any] | None = None
    eval: Mapping[str, Any] = field(default_factory=dict)
    learns: tuple[str, ...] = ()
    stages: str = "all"
    unseen: bool = False
    sources: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    adapters_of: tuple[str, ...] = ()

    @property
    def trained(self) -> tuple[Any, ...]:
        """What its adapters depend on."""
        return self.method, self.learns, self.option, self.train, self.features

    @property
    def is_union(self) -> bool:
        """Whether it trains nothing, and evaluates the adapters of several methods together."""
        return len(self.adapters_of) > 1

    def option_texts(self, stage: int) -> dict[str, str]:
        """Return the method's options for one task, as typed."""
        return {name.replace("-", "_"): spelled(value) for name, value in at_stage(self.option, stage).items()}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A recipe whose every value has been checked, save that models and data are there.

    Attributes:
        name: Its name.
        about: A line on what it is and where its numbers come from.
        model: The base model, or ``$VARIABLE``.
        revision: Its revision on the Hub.
        tasks: What ``--data`` takes, in the order of learning; tasks that no method learns may be among them.
        methods: The methods, each with everything that is set for it.
        seeds: The seeds.
        out: The folder of everything that it makes.
    """

    name: str
    about: str
    model: str
    revision: str | None
    tasks: tuple[str, ...]
    methods: tuple[MethodEntry, ...]
    seeds: tuple[int, ...]
    out: Path

    def learned_by(self, entry: MethodEntry) -> tuple[str, ...]:
        """Return the tasks that a method learns, in order."""
        return entry.learns or self.tasks


def resolved_model(recipe: Recipe) -> str:
    """Return the base model's name, with a variable's value in its place; the variable itself where it is not set."""
    match = _VARIABLE.fullmatch(recipe.model)
    return os.environ.get(match[1] or match[2]) or recipe.model if match else recipe.model


def unset_variable(model: str) -> str:
    """Return the variable that should name a base model and is not set; ``""`` for a model's name."""
    match = _VARIABLE.fullmatch(model)
    return match[1] or match[2] if match else ""


def folder_name(task: str) -> str:
    """Return the name of the adapter folder that ``clora train-task --data TASK`` makes."""
    task, _ = split_names(task)
    if task.startswith(PREFIX):
        return task_name(task.removeprefix(PREFIX))
    path = Path(task)
    leaf = bare(path) if is_readable(path) else path.name.partition(":")[0]
    return bundled_name(task) or task_name(leaf)


def to_yaml(recipe: Recipe) -> str:
    """Return a recipe as YAML that reads back as the same recipe."""
    import yaml

    head: dict[str, Any] = {"name": recipe.name, "about": recipe.about, "model": recipe.model}
    head |= {"revision": recipe.revision, "tasks": named_order(recipe.tasks)}
    head |= {"methods": [_plain_method(entry) for entry in recipe.methods]}
    head |= {"seeds": list(recipe.seeds), "out": str(recipe.out)}
    content = {key: value for key, value in head.items() if value not in ("", None)}
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=110, default_flow_style=None)


def named_order(tasks: Sequence[str]) -> str | list[str]:
    """Return tasks as the name of their order if they have one, else as a list."""
    spelled_orders = {spelled: order for spelled, order in named_orders().items() if order == tuple(tasks)}
    return next(iter(spelled_orders), list(tasks))


def _plain_method(entry: MethodEntry) -> dict[str, Any]:
    label = entry.label if entry.label != entry.method else ""
    evaluation = _plain(entry.eval) | ({"unseen": True} if entry.unseen else {})
    evaluation |= {"stages": entry.stages} if entry.stages != "all" else {}
    plain: dict[str, Any] = {"method": entry.method, "label": label, "about": entry.about}
    plain |= {"sources": {source: list(names) for source, names in entry.sources.items()}}
    plain |= {"option": _plain(entry.option), "train": _plain(entry.train)}
    plain |= {"learns": named_order(entry.learns) if entry.learns else ""}
    plain |= {"adapters-of": list(entry.adapters_of) if entry.is_union else "".join(entry.adapters_of)}
    plain |= {"stat-features": None if entry.features is None else _plain(entry.features), "eval": evaluation}
    kept = {key: value for key, value in plain.items() if value not in ("", None) and (value or key == "stat-features")}
    return kept


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    def plain(value: Any) -> Any:
        if isinstance(value, EachTask):
            return [plain(each) for each in value.values]
        if isinstance(value, float) and value.is_integer():
            return int(value)
        return list(value) if isinstance(value, tuple) else value

    return {name: plain(value) for name, value in settings.items()}
