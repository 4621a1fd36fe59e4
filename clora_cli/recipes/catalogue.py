"""Recipes that come with clora, composed from tables: ``<method>-<backbone>-<order>`` (layer L3)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from clora_cli.base import registry
from clora_cli.base.errors import OptionError, did_you_mean
from clora_cli.recipes.compositions import COMPOSED, composed, composed_orders
from clora_cli.recipes.orders import BUNDLED, orders
from clora_cli.recipes.papers import reports
from clora_cli.recipes.protocols import Settings, Status, model_of, protocol_of, settings_of
from clora_cli.recipes.reading import read_recipe
from clora_cli.recipes.recipe import Recipe
from clora_cli.recipes.shipped_tables import table

__all__ = ["Shipped", "shipped", "shipped_recipe"]

_ALL = "compare"
_OWN = "nano"  # the backbone whose tasks are its own
_OURS = (_OWN, "small", "smollm2")
_ALONE = "per-task"
_SEVERAL = (_ALL, *COMPOSED)


@dataclass(frozen=True)
class Shipped:
    """One recipe that comes with clora.

    Attributes:
        name: What ``clora run`` takes.
        method: The method, several together, ``compare`` for all, or a composition of several orders' tasks.
        backbone: A key of the table of backbones.
        order: A key of the table of orders.
    """

    name: str
    method: str
    backbone: str
    order: str

    @property
    def status(self) -> Status | None:
        """Whether a paper gives ``settings`` of this, has a ``result`` of it, or ``neither``; None of a comparison."""
        return None if self.method in _SEVERAL else self._settings.status

    @property
    def published(self) -> bool:
        """Whether a paper, or its code, says with what settings this runs."""
        return self.status == "settings"

    @property
    def about(self) -> str:
        """One line on what it is and where its numbers come from."""
        what = "all methods" if self.method == _ALL else self.method
        if self.method in COMPOSED:
            what = str(table("compositions.yaml")[self.method]["about"])
        tasks = "the bundled tasks" if self.order == BUNDLED else self.order
        return f"{what} on {self.model}, {tasks}; {self.source}"

    @property
    def model(self) -> str:
        """The base model; a comparison has one for all of its methods."""
        return model_of(self.backbone, self.order) if self.method in _SEVERAL else self._settings.model

    @property
    def source(self) -> str:
        """Where its numbers come from."""
        if self.method not in _SEVERAL:
            return self._settings.about
        others = protocol_of(self.backbone, self.order).about
        own = any(settings_of(method, self.backbone, self.order).protocol for method in _methods())
        return f"methods with settings of their own have those, the others {others}" if own else others

    @property
    def _settings(self) -> Settings:
        return settings_of(self.method, self.backbone, self.order)


@cache
def shipped() -> dict[str, Shipped]:
    """Return every recipe that comes with clora, by name: those of the methods that are there."""
    return {recipe.name: recipe for recipe in _all()}


def shipped_recipe(name: str) -> Recipe:
    """Compose a recipe that comes with clora.

    Raises:
        OptionError: If none has this name.
    """
    recipes = shipped()
    if name not in recipes:
        raise OptionError(
            f"no recipe '{name}': neither a file nor one that comes with clora{did_you_mean(name, recipes)}; "
            "`clora run --list` lists those",
            code="unknown-recipe",
        )
    return read_recipe(json.dumps(_content(recipes[name])), f"recipe {name}")  # JSON is YAML, and faster to write


@cache
def _methods() -> list[str]:
    preferred, there = table("settings.yaml")["methods"], registry.names("methods")
    return [name for name in preferred if name in there] + [name for name in there if name not in preferred]


def _all() -> Iterator[Shipped]:
    for method in [_ALL, *_methods(), *table("settings.yaml")["together"]]:
        for backbone in table("settings.yaml")["backbones"]:
            for order in orders():
                if (backbone == _OWN) == (order == BUNDLED) and _ships(method, backbone, order):
                    suffix = "" if backbone == _OWN else f"-{order}"
                    yield Shipped(f"{method}-{backbone}{suffix}", method, backbone, order)

    for kind in COMPOSED:
        for backbone in table("settings.yaml")["backbones"]:
            for order in composed_orders(kind, backbone):
                if (backbone == _OWN) == (order == BUNDLED):
                    suffix = "" if backbone == _OWN else f"-{order}"
                    yield Shipped(f"{kind}-{backbone}{suffix}", kind, backbone, order)


def _ships(method: str, backbone: str, order: str) -> bool:
    """Tell whether there is a recipe: of methods together where a paper reports them, or the backbone is of one's own."""
    tables = table("settings.yaml")
    if backbone not in tables["confined-orders"].get(order, [backbone]):
        return False
    if order not in tables["confined-backbones"].get(backbone, [order]):
        return False
    return "+" not in method or backbone in _OURS or bool(reports(method, backbone, order))


def _content(chosen: Shipped) -> dict[str, Any]:
    content: dict[str, Any] = {"name": chosen.name, "about": chosen.about, "model": chosen.model, "tasks": chosen.order}
    if chosen.method in COMPOSED:
        return content | composed(chosen.method, chosen.backbone, chosen.order)
    if chosen.method == _ALL:
        return content | {"methods": list(_compared(chosen))}
    settings = settings_of(chosen.method, chosen.backbone, chosen.order)
    entry = _entry(chosen.method, settings, settings.model)
    if not settings.seeds:
        return content | {"methods": [entry]}
    sources = {**settings.sources, settings.about: [*settings.sources[settings.about], "seeds"]}
    return content | {"methods": [entry | {"sources": sources}], "seeds": settings.seeds}


def _compared(chosen: Shipped) -> Iterator[dict[str, Any]]:
    """Yield every method, and training alone under each protocol that a method has of its own, for its FWT."""
    alone = [protocol_of(chosen.backbone, chosen.order).train]
    for method in _methods():
        if method not in registry.built_in("methods"):
            continue  # a recipe that comes with clora is the same on every machine
        settings = settings_of(method, chosen.backbone, chosen.order)
        yield _entry(method, settings, chosen.model)
        if settings.protocol and settings.train not in alone:
            alone.append(settings.train)
            yield _alone(method, settings)


def _alone(method: str, settings: Settings) -> dict[str, Any]:
    """Return training alone under a method's own protocol."""
    entry = {
        "method": _ALONE,
        "label": f"{_ALONE}-for-{method}",
        "about": f"training alone, for the FWT of {method}: {settings.about}",
    }
    evaluation = {name: value for name, value in settings.eval.items() if name != "combine"}
    kept = {source: list(filter(_of_training_alone, names)) for source, names in settings.sources.items()}
    return entry | {"sources": _kept(kept), "train": settings.train, "eval": evaluation}


def _entry(method: str, settings: Settings, model: str) -> dict[str, Any]:
    there = "" if settings.model == model else f"; there on {settings.model}"
    entry = {"method": method, "about": settings.about + there, "sources": settings.sources}
    return _kept(entry | {"option": settings.option, "train": settings.train, "eval": settings.eval})


def _of_training_alone(setting: str) -> bool:
    return not setting.startswith("option.") and setting != "eval.combine"


def _kept(entries: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in entries.items() if value}
