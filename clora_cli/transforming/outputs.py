"""What a merge is written as: factors or dense deltas (layer L3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional

from clora_cli.adapter_folder import write_adapter, write_dense
from clora_cli.card import merge_card
from clora_cli.lora import Factor, factor_keys, scaling_at

if TYPE_CHECKING:
    from clora_cli.progress import Advance
    from clora_cli.transforming.merging import MergePlan

__all__ = ["write_factors", "write_merged"]


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
    scores = {"energy": _energy(energies)} if energies else {}
    manifest = plan.manifest(argv, scores)
    config = _config(plan, rank) | own
    write_adapter(plan.options.out, tensors, config, manifest, {"README.md": merge_card(manifest)})
    return scores


def write_merged(plan: MergePlan, advance: Advance, argv: Sequence[str]) -> Mapping[str, Any]:
    """Write dense deltas, one site after another."""
    found = plan.sites(advance)
    deltas = ((one.site, one.delta.delta() if isinstance(one.delta, Factor) else one.delta) for one in found)
    manifest, dtype = plan.manifest(argv, {}), getattr(torch, plan.options.dtype)
    write_dense(plan.options.out, plan.shapes, dtype, deltas, manifest, {"README.md": merge_card(manifest)})
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
        # Endings, patterns and numbers of layers may name others too, and adapters need not agree on them.
        "target_modules": list(plan.shapes),
    }
