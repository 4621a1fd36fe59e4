"""A training's protocol: what a fair comparison keeps equal, read from an adapter's manifest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

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


def protocol_of(manifests: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the protocol of each task's training, in the manifests' order; nothing was trained for a merge, so it has none."""
    return {str(manifest["task"]): _protocol(manifest) for manifest in manifests if _TRAINED <= manifest.keys()}


def differing(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    """Return the names of the entries that both trainings have and that differ."""
    return [name for name in first if name in second and first[name] != second[name]]


def _protocol(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return a manifest's protocol, without the entries that the manifest lacks."""
    training, lora, data = manifest["training"], manifest["lora"], manifest["data"]
    entries = {
        "base model": str(manifest["base_model"].get("fingerprint", ""))[:_DIGITS] or None,
        "data": str(data.get("fingerprint", ""))[:_DIGITS] or None,
        "prompts": data.get("template"),
        "rows": data.get("train_rows"),
        "steps": _steps(training, data),
        "batch": _batch(training),
        "rank": lora.get("rank"),
        "scaling": lora["alpha"] / lora["rank"] if lora.get("alpha") and lora.get("rank") else None,
        "dropout": lora.get("dropout"),
        "layers": ", ".join(lora["target_modules"]) or "query and value" if "target_modules" in lora else None,
        **{name.replace("_", " "): training.get(name) for name in _UNCHANGED},
    }
    return {name: value for name, value in entries.items() if value is not None}


def _batch(training: Mapping[str, Any]) -> int | None:
    return training["batch_size"] * training.get("grad_accum", 1) if "batch_size" in training else None


def _steps(training: Mapping[str, Any], data: Mapping[str, Any]) -> int | None:
    """Return the optimizer steps over a task's own rows; what a memory of earlier rows adds belongs to the method."""
    batch = _batch(training)
    if steps := training.get("max_steps"):
        return int(steps)
    if not (batch and "train_rows" in data and "epochs" in training):
        return None
    passes, steps_a_pass = float(training["epochs"]), -(-int(data["train_rows"]) // batch)
    return max(1, round(passes * steps_a_pass))
