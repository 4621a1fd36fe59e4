"""What a merge is written as: factors or dense deltas (layer L3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional

from clora_cli.algebra.head_names import head_modules
from clora_cli.algebra.lora import Factor, factor_keys, scaling_at
from clora_cli.store.adapter_writing import write_adapter, write_dense
from clora_cli.store.card import merge_card
from clora_cli.store.manifest import Manifest

if TYPE_CHECKING:
    from clora_cli.base.progress import Advance
    from clora_cli.transforming.merge_plan import MergePlan

__all__ = ["write_factors", "write_merged"]

# Settings of PEFT that select layers.
_SELECTING = ("target_modules", "layers_to_transform", "layers_pattern", "exclude_modules")


def write_factors(plan: MergePlan, advance: Advance, argv: Sequence[str]) -> Mapping[str, Any]:
    """Write a PEFT LoRA folder: cut to the plan's rank, or the exact sum.

    Where sites end up with different ranks, the smaller are filled up with zeros: one rank and one scaling everywhere is
    what every loader, vLLM's included, takes. The scaling is the adapters' own where the sum is a LoRA of their rank with
    their ``lora_A``, whose numbers then stay as they are; else 1.
    """
    factors: dict[str, Factor] = {}
    energies: dict[str, tuple[float, float]] = {}
    for merged in plan.sites(advance):
        factors[merged.site] = merged.delta  # type: ignore[assignment]  # a linear merge of factors, or a cut one, gives factors
        if merged.energy is not None:
            energies[merged.site] = merged.energy
    rank = max(factor.rank for factor in factors.values())
    own = _own_scale(plan, factors, rank)
    embeddings = {site for member in plan.members for site in member.embeddings}
    tensors: dict[str, Tensor] = {}
    for site, factor in factors.items():
        key_a, key_b = factor_keys(site, site in embeddings)
        missing = rank - factor.rank
        tensors[key_a] = functional.pad(factor.a.float(), (0, 0, 0, missing))
        tensors[key_b] = functional.pad(factor.b.float() * (1.0 if own else factor.scaling), (0, missing))
    if plan.head:
        tensors |= plan.head.tensors()
    scores = {"energy": _energy(energies)} if energies else {}
    manifest = plan.manifest(argv, scores)
    config = _config(plan, rank) | own
    write_adapter(plan.options.place, tensors, config, manifest, {"README.md": merge_card(Manifest(manifest))})
    return scores


def write_merged(plan: MergePlan, advance: Advance, argv: Sequence[str]) -> Mapping[str, Any]:
    """Write dense deltas, one site after another."""
    results = plan.sites(advance)
    deltas = (
        (result.site, result.delta.delta() if isinstance(result.delta, Factor) else result.delta) for result in results
    )
    manifest, dtype = plan.manifest(argv, {}), getattr(torch, plan.options.dtype)
    texts, head = {"README.md": merge_card(Manifest(manifest))}, plan.head.tensors() if plan.head else None
    write_dense(plan.options.place, plan.shapes, dtype, deltas, manifest, texts, head)
    return {}


def _energy(energies: Mapping[str, tuple[float, float]]) -> dict[str, Any]:
    shares = {site: kept / whole if whole else 1.0 for site, (kept, whole) in energies.items()}
    worst = min(shares, key=lambda site: shares[site])
    total = sum(whole for _, whole in energies.values())
    kept = sum(kept for kept, _ in energies.values())
    return {"kept": kept / total if total else 1.0, "worst": shares[worst], "worst_site": worst}


def _own_scale(plan: MergePlan, factors: Mapping[str, Factor], rank: int) -> dict[str, Any]:
    """Return the settings by which the first adapter scales, if all of the result has its rank and scaling."""
    first = plan.members[0].config
    own = {key: first[key] for key in ("r", "lora_alpha", "use_rslora") if first.get(key)}
    same = own.get("r") == rank and all(factor.scaling == scaling_at(own, site) for site, factor in factors.items())
    return own if same else {}


def _config(plan: MergePlan, rank: int) -> dict[str, Any]:
    configs = [member.config for member in plan.members if member.config]
    return {
        "peft_type": "LORA",
        "task_type": next((config["task_type"] for config in configs if config.get("task_type")), None),
        "base_model_name_or_path": plan.base.get("id"),
        "revision": plan.base.get("revision"),
        "inference_mode": True,
        "r": rank,
        "lora_alpha": rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": plan.transposed,
        **_selection(plan),
        **({"modules_to_save": _saved(configs)} if plan.head else {}),
    }


def _saved(configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the modules that hold a head, as the first adapter that has one names them."""
    return next(list(found) for config in configs if (found := head_modules(config)))


def _selection(plan: MergePlan) -> dict[str, Any]:
    """Say which layers are adapted: by their whole paths, or as the adapters do, whole, where only their own words are known."""
    layers, chosen = plan.merger.layers, [_selected(member.config) for member in plan.members]
    alike = all(settings == chosen[0] for settings in chosen) and chosen[0]["target_modules"]
    everywhere = all(len(deltas) == len(plan.shapes) for deltas in plan.merger.deltas)
    resolved = layers is not None and layers.are_modules(plan.shapes)
    resolved |= any(bool(member.config.get("target_parameters")) for member in plan.members)  # resolved layer by layer
    return chosen[0] if alike and everywhere and not resolved else {"target_modules": list(plan.shapes)}


def _selected(config: Mapping[str, Any]) -> dict[str, Any]:
    settings = {key: config.get(key) for key in _SELECTING}
    targets = settings["target_modules"]
    return settings | {"target_modules": sorted(targets) if isinstance(targets, list) else targets}
