"""A training's protocol: what a fair comparison keeps equal, read from an adapter's manifest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from clora_cli.store.manifest import Manifest
from clora_cli.store.manifest_parts import DataRecord

__all__ = ["Protocol", "differing", "protocol_of"]

Protocol = Mapping[str, Mapping[str, Any]]  # task -> what a comparison keeps equal of its training, by name
_TRAINED = {"task", "base_model", "data", "lora", "training"}
_DIGITS = 12  # of a fingerprint
_UNCHANGED = (
    "lr",
    "schedule",
    "warmup_steps",
    "weight_decay",
    "max_grad_norm",
    "dtype",
    "quantize",
    "base_dropout",
    "max_length",
)


def protocol_of(manifests: Sequence[Manifest]) -> dict[str, dict[str, Any]]:
    """Return the protocol of each task's training, in the manifests' order; nothing was trained for a merge, so it has none."""
    return {manifest.task: _protocol(manifest) for manifest in manifests if not manifest.is_merge}


def differing(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    """Return the names of the entries that both trainings have and that differ."""
    return [name for name in first if name in second and first[name] != second[name]]


def _protocol(manifest: Manifest) -> dict[str, Any]:
    """Return a manifest's protocol, without the entries that the manifest lacks."""
    training, lora, data = manifest.training.raw, manifest.lora, manifest.data
    entries = {
        "base model": (manifest.base_model.fingerprint or "")[:_DIGITS] or None,
        "data": (data.fingerprint or "")[:_DIGITS] or None,
        "prompts": data.template,
        "rows": data.train_rows,
        "steps": _steps(training, data),
        "batch": _batch(training),
        "rank": lora.rank,
        "scaling": lora.alpha / lora.rank if lora.alpha and lora.rank else None,
        "dropout": lora.dropout,
        "layers": None if lora.target_modules is None else ", ".join(lora.target_modules) or "query and value",
        "augment": training.get("augment", "none") if data.template == "image" else None,
        **{name.replace("_", " "): training.get(name) for name in _UNCHANGED},
    }
    return {name: value for name, value in entries.items() if value is not None}


def _batch(training: Mapping[str, Any]) -> int | None:
    return training["batch_size"] * training.get("grad_accum", 1) if "batch_size" in training else None


def _steps(training: Mapping[str, Any], data: DataRecord) -> int | None:
    """Return the optimizer steps over a task's own rows; what a memory of earlier rows adds belongs to the method."""
    batch = _batch(training)
    if steps := training.get("max_steps"):
        return int(steps)
    if not batch or data.train_rows is None or "epochs" not in training:
        return None
    passes, steps_a_pass = float(training["epochs"]), -(-data.train_rows // batch)
    return max(1, round(passes * steps_a_pass))
