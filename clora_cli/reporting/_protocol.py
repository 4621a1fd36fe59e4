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
    training, lora, data = manifest["training"], manifest["lora"], manifest["data"]
    batch = training["batch_size"] * training["grad_accum"]
    passes = round(training["epochs"] * -(-data["train_rows"] // batch))
    return {
        "base model": str(manifest["base_model"].get("fingerprint", ""))[:_SHORT],
        "data": str(data["fingerprint"])[:_SHORT],
        "prompts": data["template"],
        "rows": data["train_rows"],
        "steps": training["max_steps"] or max(1, passes),  # of its own rows: what a memory adds is its method's
        "batch": batch,
        "rank": lora["rank"],
        "scaling": lora["alpha"] / lora["rank"],
        "dropout": lora["dropout"],
        "layers": ", ".join(lora["target_modules"]) or "query and value",
        **{name.replace("_", " "): training[name] for name in _AS_IT_IS if name in training},
    }
