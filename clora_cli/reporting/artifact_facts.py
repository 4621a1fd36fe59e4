"""What an artifact is, as data (layer L3): an adapter with its distribution, a plug-in."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from clora_cli.base import registry
from clora_cli.base.errors import ArtifactError, MismatchError
from clora_cli.store.adapter_folder import AdapterFolder, is_adapter

__all__ = ["Kind", "adapter_facts", "kind_of", "plugin_facts"]

Kind = Literal["adapter", "package", "plug-in", "plug-in file", "scores"]


def kind_of(path: Path) -> Kind:
    """Tell what a path is, or a plug-in's name in its place.

    Raises:
        ArtifactError: If there is nothing, and no plug-in has the name.
    """
    if path.is_dir():
        return "adapter" if is_adapter(path) else "package"
    if path.is_file():
        return "plug-in file" if path.suffix == ".py" else "scores"
    if is_adapter(path):
        return "adapter"
    if registry.kinds_of(str(path)):
        return "plug-in"
    raise ArtifactError(f"{path} does not exist and names no plug-in", code="path-missing")


def plugin_facts(kinds: Sequence[str], name: str) -> list[dict[str, Any]]:
    """Return a plug-in's documentation, its options with their defaults, and where it comes from, by kind.

    Raises:
        CloraError: If it cannot be loaded.
    """
    data = []
    for kind in kinds:
        plugin = registry.load(kind, name)
        options = {} if kind == "metrics" else registry.options(plugin)  # what a metric takes are scores
        defaults = {key: declared.default for key, declared in options.items()}
        entry = {"kind": kind, "name": name, "documentation": inspect.getdoc(plugin), "options": defaults}
        data.append({**entry, **registry.find(kind, name).record()})
    return data


def adapter_facts(member: AdapterFolder) -> dict[str, Any]:
    """Return what an adapter is, after checking its tensors, its distribution and its manifest.

    Raises:
        CloraError: If something of it is damaged.
    """
    return {
        "path": str(member.path),
        "task": member.task,
        "stage": member.stage,
        "base_model": dict(member.base),
        "sha256": member.digest,
        **_form(member),
        "features": _features(member),
        "manifest": dict(member.manifest.raw) if member.manifest else {},
    }


def _form(member: AdapterFolder) -> dict[str, Any]:
    """Return what an adapter is made of; ``base_copies`` are weights of the base model, as PEFT saves those of a vocabulary."""
    from clora_cli.algebra.lora import Factor
    from clora_cli.store.adapter_tensors import names_in

    if member.is_prompt:
        prompt = member.prompt()
        return {"form": "prompt", "tokens": len(prompt), "hidden": prompt.shape[1], "parameters": prompt.numel()}
    names = [] if member.is_dense else names_in(member.weights, member.config)
    deltas = member.deltas(compare=False)
    return {
        "form": "dense" if member.is_dense else "factors",
        "sites": len(deltas),
        "shapes": sorted({f"{delta.shape[0]} x {delta.shape[1]}" for delta in deltas.values()}),
        "parameters": sum(d.a.numel() + d.b.numel() if isinstance(d, Factor) else d.numel() for d in deltas.values()),
        **_classes(member),
        "base_copies": [f"{name.site}.{name.tensor}" for name in names if name.part == "base"],
    }


def _classes(member: AdapterFolder) -> dict[str, Any]:
    """Return the classes of each task; those of a PEFT folder that nothing names are left out."""
    from clora_cli.store.heads import has_head, head_of

    try:
        return {"classes": head_of(member).tasks} if has_head(member) else {}
    except MismatchError:
        return {}


def _features(member: AdapterFolder) -> dict[str, Any] | None:
    """Return how the feature distribution was taken, and of what size it is, after checking its numbers."""
    from clora_cli.store.distribution import read_distribution

    if not member.features.is_file():
        return None
    distribution = read_distribution(member.features)
    return {**distribution.record.raw, "count": distribution.count, "sites": len(distribution.sites)}
