"""The settings with which a shipped recipe runs a method, and the source of each number (layer L3); see ``settings.yaml``."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, Literal

from clora_cli.recipes.method_entries import SHARED
from clora_cli.recipes.papers import reports
from clora_cli.recipes.shipped_tables import orders_of, table

__all__ = ["Settings", "Status", "model_of", "protocol_of", "settings_of"]

Status = Literal["settings", "result", "neither"]
_SECTIONS = ("train", "eval", "option")
_OURS = {
    "smollm2": "clora's own settings for a pretrained model on a CPU",
    "small": "clora's own settings for a CPU",
    "nano": "clora's own settings for the bundled model",
}
_OWN = "clora's own settings"


@dataclass(frozen=True)
class Settings:
    """The settings of one method.

    Attributes:
        status: Whether a paper, or its code, gives ``settings`` of this method on this backbone and order; has a ``result`` of
            it without; or ``neither``.
        about: Where the numbers come from, in a line.
        model: The base model.
        train: Options of ``clora train-task``.
        eval: Options of ``clora eval``.
        option: The method's options.
        seeds: The seeds; empty for clora's.
        sources: Where numbers come from: what says so, to their names, ``train.lr`` among them.
        protocol: Whether a paper gives the method a protocol of its own, in which training alone may differ too.
    """

    status: Status
    about: str
    model: str
    train: Mapping[str, Any]
    eval: Mapping[str, Any]
    option: Mapping[str, Any]
    seeds: Sequence[int] = ()
    sources: Mapping[str, Sequence[str]] = field(default_factory=dict)
    protocol: bool = False


@dataclass(frozen=True)
class _Layer:
    """Some settings and their source."""

    source: str
    values: Mapping[str, Mapping[str, Any]]
    sources: Mapping[str, Sequence[str]] = field(default_factory=dict)


@cache
def settings_of(method: str, backbone: str, order: str) -> Settings:
    """Return the settings of a method, or of several together: its own, else those of the protocol, else clora's."""
    found = _fitting("published", backbone, order, method)
    protocol = _fitting("protocols", backbone, order)
    layers = list(_layers(method, backbone, found, protocol))
    values = {name: _merged(layer.values.get(name, {}) for layer in layers) for name in _SECTIONS}
    known = reports(method, backbone, order)
    return Settings(
        status="settings" if found else "result" if known else "neither",
        about=str(found["about"]) if found else _about(method, backbone, order, protocol),
        model=str((found or protocol or {}).get("model") or table("settings.yaml")["backbones"][backbone]),
        seeds=(found or {}).get("seeds", ()),
        sources=_sources(layers),
        protocol=found is not None,
        **values,
    )


@cache
def protocol_of(backbone: str, order: str) -> Settings:
    """Return the settings of methods without settings of their own, free of any method's options or needs."""
    return replace(settings_of("", backbone, order), about=_told(backbone, _fitting("protocols", backbone, order)))


def model_of(backbone: str, order: str) -> str:
    """Return the base model of a comparison, which has one for all of its methods: the protocol's."""
    return protocol_of(backbone, order).model


def _fitting(name: str, backbone: str, order: str, method: str = "") -> dict[str, Any] | None:
    """Return the first entry of a list of the table that is for a combination."""
    entries = (entry for entry in table("settings.yaml")[name] if backbone in entry["backbones"])
    fits = (entry for entry in entries if "methods" not in entry or method in entry["methods"])
    return next((entry for entry in fits if order in orders_of(entry["orders"])), None)


def _layers(
    method: str, backbone: str, found: Mapping[str, Any] | None, protocol: Mapping[str, Any] | None
) -> Iterator[_Layer]:
    """Yield the parts of a method's settings; later parts take precedence."""
    tables = table("settings.yaml")
    ours: Mapping[str, Any] = tables["ours"][backbone]
    chosen = found or protocol
    if chosen is None:
        own = _OURS.get(backbone, _OWN)
        yield _Layer(own, {"train": ours["train"], "eval": ours.get("eval", {})})
        yield _Layer(own, {"option": ours.get("option", {}).get(method, {})})
    else:
        base: Mapping[str, Any] = tables["bases"][chosen["base"]]
        yield _Layer(base["source"], base, base.get("sources", {}))
        option = chosen.get("option", {}).get(method, {})
        yield _Layer(chosen["about"], {**chosen, "option": option}, chosen.get("sources", {}))
    if found is None and protocol is not None:
        yield _Layer(tables["inherited-source"], {"option": tables["inherited"].get(method, {})})
    if found is None:
        yield _Layer(f"clora's own: what {method} needs", {"train": ours.get("own", {}).get(method, {})})


def _about(method: str, backbone: str, order: str, protocol: Mapping[str, Any] | None) -> str:
    settings = _told(backbone, protocol)
    if backbone in _OURS:
        return settings
    if known := reports(method, backbone, order):
        return f"reported in {' and '.join(map(str, known))}, its settings not known here; {settings}"
    return f"no paper reports this combination; {settings}"


def _told(backbone: str, protocol: Mapping[str, Any] | None) -> str:
    return str(protocol["about"]) if protocol else _OURS.get(backbone, _OWN)


def _merged(parts: Iterator[Mapping[str, Any]]) -> dict[str, Any]:
    return {name: value for part in parts for name, value in part.items()}


def _sources(layers: Sequence[_Layer]) -> dict[str, list[str]]:
    """Return the source of each effective setting, as settings by source."""
    last: dict[str, str] = {}
    for layer in layers:
        exceptions = {name: source for source, names in layer.sources.items() for name in names}
        for section in _SECTIONS:
            for name in layer.values.get(section, {}):
                exact = f"{section}.{name}"
                last[exact] = exceptions.get(exact, exceptions.get(name, layer.source))
    for name in SHARED:
        if f"train.{name}" in last:
            last.setdefault(f"eval.{name}", last[f"train.{name}"])  # an evaluation takes them from the training
    grouped: dict[str, list[str]] = defaultdict(list)
    for name, source in last.items():
        grouped[source].append(name)
    return dict(grouped)
