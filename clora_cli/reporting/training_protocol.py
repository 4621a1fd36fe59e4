"""What a comparison holds equal of a training, as its manifest says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["Protocol", "differing", "protocol_of"]

Protocol = Mapping[str, Mapping[str, Any]]  # task -> what of its training a comparison holds equal, by name
_TRAINED = {"task", "base_model", "data", "lora", "training"}
_SHORT = 12  # digits of a fingerprint
_AS_IT_IS = (
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
    """Return the protocol of each task's training, in the manifests' order; nothing of what was not trained, such as a merge."""
    return {str(manifest["task"]): _protocol(manifest) for manifest in manifests if _TRAINED <= manifest.keys()}


def differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Return the names of what differs between two trainings, as far as both say it."""
    return [name for name in one if name in other and one[name] != other[name]]


def _protocol(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a manifest says of it; what it leaves open is not there."""
    training, lora, data = manifest["training"], manifest["lora"], manifest["data"]
    said = {
        "base model": str(manifest["base_model"].get("fingerprint", ""))[:_SHORT] or None,
        "data": str(data.get("fingerprint", ""))[:_SHORT] or None,
        "prompts": data.get("template"),
        "rows": data.get("train_rows"),
        "steps": _steps(training, data),
        "batch": _batch(training),
        "rank": lora.get("rank"),
        "scaling": lora["alpha"] / lora["rank"] if lora.get("alpha") and lora.get("rank") else None,
        "dropout": lora.get("dropout"),
        "layers": ", ".join(lora["target_modules"]) or "query and value" if "target_modules" in lora else None,
        **{name.replace("_", " "): training.get(name) for name in _AS_IT_IS},
    }
    return {name: value for name, value in said.items() if value is not None}


def _batch(training: Mapping[str, Any]) -> int | None:
    return training["batch_size"] * training.get("grad_accum", 1) if "batch_size" in training else None


def _steps(training: Mapping[str, Any], data: Mapping[str, Any]) -> int | None:
    """Return the optimizer steps over a task's own rows: what a memory adds is its method's."""
    batch = _batch(training)
    if steps := training.get("max_steps"):
        return int(steps)
    if not (batch and "train_rows" in data and "epochs" in training):
        return None
    passes, padded = float(training["epochs"]), -(-int(data["train_rows"]) // batch)
    return max(1, round(passes * padded))
