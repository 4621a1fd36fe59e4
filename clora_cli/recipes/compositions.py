"""Shipped recipes of more than one order's tasks: those never learned, and packages put together (layer L3)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from clora_cli.recipes.method_entries import SHARED
from clora_cli.recipes.orders import orders
from clora_cli.recipes.protocols import Settings, settings_of
from clora_cli.recipes.shipped_tables import table

__all__ = ["COMPOSED", "composed", "composed_orders"]

COMPOSED = ("unseen", "expansion")
_LAST = {"stages": "last", "unseen": True}


def composed_orders(kind: str, backbone: str) -> list[str]:
    """Return the orders of which a kind of composition ships on a backbone; none if it does not ship there."""
    tables = table("compositions.yaml")
    return list(tables[kind]["orders"]) if backbone in tables["backbones"] else []


def composed(kind: str, backbone: str, order: str) -> dict[str, Any]:
    """Return what a shipped composition adds to a recipe's name and model.

    Args:
        kind: One of ``COMPOSED``.
        backbone: A key of the table of backbones.
        order: One of ``composed_orders``.
    """
    return _unseen(backbone, order) if kind == "unseen" else _expansion(backbone, order)


def _unseen(backbone: str, order: str) -> dict[str, Any]:
    tables = table("compositions.yaml")["unseen"]
    of_order = tables["orders"][order]
    learned = _tasks(of_order["learns"])
    variants: Mapping[str, Any] = tables["variants"]
    methods = [_entry(settings_of(method, backbone, order), method) for method in tables["methods"]]
    for label, variant in variants.items():
        settings = settings_of(variant["method"], backbone, order)
        option = {**settings.option, **variant["option"]}
        methods.append({**_entry(settings, variant["method"]), "label": label, "option": option})
    tasks = [*learned, *of_order["tasks"].split()]
    return {"tasks": tasks, "learns": learned, "methods": methods, "eval": _LAST}


def _expansion(backbone: str, order: str) -> dict[str, Any]:
    parts: Mapping[str, str] = table("compositions.yaml")["expansion"]["orders"][order]
    tasks = [task for named in parts.values() for task in _tasks(named)]
    methods = [entry for part, named in parts.items() for entry in _part(part, named, backbone)]
    first, second = parts
    settings = settings_of("pfd", backbone, _setting_order(parts[first], order))
    evaluation = {**_taken(settings), **_route(settings)}
    pairs = [(first, f"{second}-alone"), (second, f"{first}-alone"), (first, second)]
    unions = [{"label": "+".join(pair), "adapters-of": list(pair), "eval": evaluation} for pair in pairs]
    return {"tasks": tasks, "methods": [*methods, *unions], "eval": _LAST}


def _part(part: str, named: str, backbone: str) -> Iterator[dict[str, Any]]:
    """Yield one benchmark learned task after task, then each of its tasks alone, with what routing needs."""
    order = _setting_order(named, "bundled")
    settings, learned = settings_of("pfd", backbone, order), _tasks(named)
    yield {**_entry(settings, "pfd"), "label": part, "learns": learned}
    features = {"second-moment": "full"} if _route(settings)["similarity"] == "mahalanobis" else {}
    alone = {**_entry(replace(settings, option={}), "per-task"), "label": f"{part}-alone", "learns": learned}
    yield {**alone, "stat-features": features, "eval": {**settings.eval, **_route(settings)}}


def _route(settings: Settings) -> dict[str, Any]:
    return {"combine": "route", "similarity": settings.option.get("similarity", "l2")}


def _taken(settings: Settings) -> dict[str, Any]:
    """Return the options of an evaluation that follows no training of its own."""
    return {name: settings.train[name] for name in SHARED if name in settings.train} | dict(settings.eval)


def _entry(settings: Settings, method: str) -> dict[str, Any]:
    options = {f"option.{name}" for name in settings.option}
    named = {
        source: [n for n in names if n in options or not n.startswith("option.")]
        for source, names in settings.sources.items()
    }
    entry = {
        "method": method,
        "about": settings.about,
        "sources": {source: names for source, names in named.items() if names},
    }
    entry |= {"option": settings.option, "train": settings.train, "eval": settings.eval}
    return {name: value for name, value in entry.items() if value}


def _tasks(named: str) -> Sequence[str]:
    """Return the tasks of an order, or those of a text that lists them."""
    return orders().get(named, tuple(named.split()))


def _setting_order(named: str, otherwise: str) -> str:
    """Return the order whose settings hold for some tasks."""
    return named if named in orders() else otherwise
