"""What a merge is written as: factors, dense deltas, or a whole model (layer L3)."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional

from clora_cli.adapter_folder import write_adapter, write_dense
from clora_cli.base_model import Checkpoint, oriented
from clora_cli.card import merge_card
from clora_cli.errors import MismatchError, OptionError
from clora_cli.files import new_folder, to_json
from clora_cli.lora import Factor, factor_keys, recompress, scaling_at, truncate
from clora_cli.tensors import save_tensors

if TYPE_CHECKING:
    from clora_cli.progress import Advance
    from clora_cli.transforming.merging import MergePlan

__all__ = ["write_factors", "write_merged", "write_model"]


def write_factors(plan: MergePlan, advance: Advance, argv: Sequence[str]) -> Mapping[str, Any]:
    """Write a PEFT LoRA folder: cut to the plan's rank, or the exact sum.

    Where sites end up with different ranks, the smaller are filled up with zeros: one rank and one scaling everywhere is
    what every loader, vLLM's included, takes. The scaling is the adapters' own where the sum is a LoRA of their rank with
    their ``lora_A``, whose numbers then stay as they are; else 1.
    """
    factors: dict[str, Factor] = {}
    energies: dict[str, tuple[float, float]] = {}
    for site, delta in plan.sites(advance):
        if not plan.rank:
            factors[site] = delta  # type: ignore[assignment]  # a linear merge of factors gives factors
            continue
        cut = (
            recompress(delta, plan.rank) if isinstance(delta, Factor) else truncate(delta, plan.rank, plan.options.seed)
        )
        factors[site], *energy = cut
        energies[site] = (energy[0], energy[1])
    rank = max(factor.rank for factor in factors.values())
    own = _own_scale(plan, factors, rank)
    tensors: dict[str, Tensor] = {}
    for site, factor in factors.items():
        key_a, key_b = factor_keys(site)
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
    deltas = ((site, delta.delta() if isinstance(delta, Factor) else delta) for site, delta in plan.sites(advance))
    manifest, dtype = plan.manifest(argv, {}), getattr(torch, plan.options.dtype)
    write_dense(plan.options.out, plan.shapes, dtype, deltas, manifest, {"README.md": merge_card(manifest)})
    return {}


def write_model(plan: MergePlan, advance: Advance, argv: Sequence[str]) -> Mapping[str, Any]:
    """Write the base model with the merge added to its weights, shard by shard; every other tensor and file is copied.

    Sums are made in float32 and rounded once to the type that the weight is stored in.

    Raises:
        OptionError: If the folder is there already.
    """
    from safetensors.torch import load_file

    out, reference = plan.options.out, plan.reference
    if out.exists():
        raise OptionError(f"{out} exists; choose another --into-model")
    if reference is None:
        raise OptionError("--into-model needs the base model; pass --model")
    checkpoint = Checkpoint(reference.path)
    keys = {checkpoint.key_of(site): site for site in plan.shapes}
    if len(keys) < len(plan.shapes):
        raise MismatchError(f"two sites of the adapters are one weight of base model '{reference.id}'")
    with new_folder(out) as folder:
        for file, names in checkpoint.files.items():
            sites = {keys[name]: name for name in names if name in keys}
            tensors = load_file(file)
            for site, delta in plan.sites(advance, sites):
                weight = oriented(tensors[sites[site]], plan.shapes[site], plan.transposed, sites[site])
                weight.copy_(weight.float() + (delta.delta() if isinstance(delta, Factor) else delta))
            save_tensors(folder / file.name, tensors)
        for other in sorted(reference.path.iterdir()):
            if other.is_file() and other.suffix in {".json", ".model", ".txt", ".jinja"}:
                shutil.copyfile(other, folder / other.name)
        record = {**plan.manifest(argv, {}), "schema": "clora.model/1"}
        (folder / "clora.json").write_text(to_json(record), encoding="utf-8")
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
    first = configs[0] if configs else {}
    targets = [json.dumps(config.get("target_modules"), sort_keys=True) for config in configs]
    everywhere = all(len(deltas) == len(plan.shapes) for deltas in plan.deltas)
    named = first.get("target_modules") if len(set(targets)) == 1 and everywhere else None
    return {
        "peft_type": "LORA",
        "task_type": first.get("task_type"),
        "base_model_name_or_path": plan.base.get("id"),
        "revision": plan.base.get("revision"),
        "inference_mode": True,
        "r": rank,
        "lora_alpha": rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": plan.transposed,
        # Endings could name layers of the model that no adapter changes: then every site is named in full.
        "target_modules": named or list(plan.shapes),
    }
