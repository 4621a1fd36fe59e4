"""Recipes that come with clora, composed from tables: ``<method>-<backbone>-<order>`` (layer L3)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from clora_cli import registry
from clora_cli.errors import OptionError, did_you_mean
from clora_cli.recipes.document import read_document
from clora_cli.recipes.orders import BUNDLED, orders
from clora_cli.recipes.reading import read_recipe
from clora_cli.recipes.recipe import Recipe

__all__ = ["Shipped", "shipped", "shipped_recipe"]

_ALL = "compare"
_OWN = "nano"  # the backbone whose tasks are its own
_OURS = "clora's own settings: no paper reports this combination"
_SCALED = {"small": "clora's own settings for a CPU", _OWN: "clora's own settings for the bundled model"}


@dataclass(frozen=True)
class Shipped:
    """One recipe that comes with clora.

    Attributes:
        name: What ``clora run`` takes.
        method: The method, or ``compare`` for all.
        backbone: A key of the table of backbones.
        order: A key of the table of orders.
    """

    name: str
    method: str
    backbone: str
    order: str

    @property
    def published(self) -> bool:
        """Whether a paper, or its code, says with what settings this runs."""
        return self.method != _ALL and _published(self.method, self.backbone, self.order) is not None

    @property
    def about(self) -> str:
        """One line on what it is and where its numbers come from."""
        what = "all methods" if self.method == _ALL else self.method
        tasks = "the bundled tasks" if self.order == BUNDLED else self.order
        return f"{what} on {_model(self)}, {tasks}; {self.source}"

    @property
    def source(self) -> str:
        """Where its numbers come from."""
        if self.method == _ALL:
            return "each with the settings of its own recipe"
        return _source(self.method, self.backbone, self.order)


@cache
def shipped() -> dict[str, Shipped]:
    """Return every recipe that comes with clora, by name: those of the methods that are there."""
    return {recipe.name: recipe for recipe in _all()}


def shipped_recipe(name: str) -> Recipe:
    """Compose a recipe that comes with clora.

    Raises:
        OptionError: If none has this name.
    """
    known = shipped()
    if name not in known:
        raise OptionError(
            f"no recipe '{name}': neither a file nor one that comes with clora{did_you_mean(name, known)}; "
            "`clora run --list` lists those"
        )
    return read_recipe(json.dumps(_content(known[name])), f"recipe {name}")  # JSON is YAML, and faster to write


@cache
def _tables() -> dict[str, Any]:
    path = Path(__file__).parent / "settings.yaml"
    tables: dict[str, Any] = read_document(path.read_text(encoding="utf-8"), path.name).plain
    return tables


@cache
def _methods() -> list[str]:
    preferred, there = _tables()["methods"], registry.names("methods")
    return [name for name in preferred if name in there] + [name for name in there if name not in preferred]


def _all() -> Iterator[Shipped]:
    for method in [_ALL, *_methods()]:
        for backbone in _tables()["backbones"]:
            for order in orders():
                if (backbone == _OWN) == (order == BUNDLED):
                    suffix = "" if backbone == _OWN else f"-{order}"
                    yield Shipped(f"{method}-{backbone}{suffix}", method, backbone, order)


def _content(chosen: Shipped) -> dict[str, Any]:
    methods = _methods() if chosen.method == _ALL else [chosen.method]
    content: dict[str, Any] = {"name": chosen.name, "about": chosen.about, "model": _model(chosen)}
    content |= {"tasks": chosen.order, "methods": [_entry(method, chosen) for method in methods]}
    published = None if chosen.method == _ALL else _published(chosen.method, chosen.backbone, chosen.order)
    return content | ({"seeds": published["seeds"]} if published and "seeds" in published else {})


def _entry(method: str, chosen: Shipped) -> dict[str, Any]:
    tables = _tables()
    found = _published(method, chosen.backbone, chosen.order)
    settings = found if found is not None else tables["ours"][chosen.backbone]
    base: Mapping[str, Any] = tables["bases"][settings["base"]] if "base" in settings else {}
    entry: dict[str, Any] = {"method": method, "about": _source(method, chosen.backbone, chosen.order)}
    entry["option"] = settings.get("option", {}).get(method, {})
    for section in ("train", "eval"):
        entry[section] = {**base.get(section, {}), **settings.get(section, {})}
    entry["train"] |= settings.get("own", {}).get(method, {})
    return {key: value for key, value in entry.items() if value}


def _source(method: str, backbone: str, order: str) -> str:
    found = _published(method, backbone, order)
    return str(found["about"]) if found is not None else _SCALED.get(backbone, _OURS)


def _model(chosen: Shipped) -> str:
    """Return the base model; a comparison has one for all of its methods."""
    found = None if chosen.method == _ALL else _published(chosen.method, chosen.backbone, chosen.order)
    return str((found or {}).get("model") or _tables()["backbones"][chosen.backbone])


@cache
def _published(method: str, backbone: str, order: str) -> dict[str, Any] | None:
    """Return the first entry of the table that is for this combination."""
    fits = (e for e in _tables()["published"] if method in e["methods"] and backbone in e["backbones"])
    return next((entry for entry in fits if order in _orders_of(entry["orders"])), None)


def _orders_of(named: str | Sequence[str]) -> Sequence[str]:
    families: dict[str, list[str]] = _tables()["families"]
    return families[named] if isinstance(named, str) else named
