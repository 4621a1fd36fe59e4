"""Adapters that are parts of one LoRA, with masks and task vectors, for tests: what `--method cast` leaves behind."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from support import config_of, manifest_of
from torch.nn import functional

from clora_cli.algebra.lora import Factor, factor_keys
from clora_cli.model.backbone import Backbone
from clora_cli.model.features import prompt_ids
from clora_cli.model.linear_layers import find_sites
from clora_cli.model.task_vectors import KEY, embeddings
from clora_cli.store.adapter_folder import AdapterFolder
from clora_cli.store.adapter_writing import write_adapter
from clora_cli.store.ledger import mask_key, pack

RECORDED = {"similarity": "task-vector", "top_k": 1, "temperature": 0.05, "layer": "all", "module": "", "abstain": 0.0}


def parts(
    model: Any, count: int, *, rank: int = 4, scaling: float = 2.0, seed: int = 0, targets: Sequence[str] = ()
) -> list[dict[str, Factor]]:
    """Return adapters of one random ``a`` whose entries of ``b`` do not overlap; some entries are nobody's."""
    generator = torch.Generator().manual_seed(seed)
    found: list[dict[str, Factor]] = [{} for _ in range(count)]
    for site, (rows, columns) in find_sites(model, targets).items():
        a = torch.randn(rank, columns, generator=generator) * 0.2
        b = torch.randn(rows, rank, generator=generator) * 0.4
        owner = torch.randint(0, count + 1, (rows, rank), generator=generator)
        for number, adapter in enumerate(found):
            adapter[site] = Factor(a.clone(), b * (owner == number), scaling)
    return found


def write_parts(
    package: Path,
    backbone: Backbone,
    names: Sequence[str],
    vectors: Sequence[torch.Tensor] | None = None,
    *,
    seed: int = 0,
    rank: int = 4,
    alpha: int = 8,
    route: Any = RECORDED,
    **data: Any,
) -> Path:
    """Write a package of parts of one LoRA, one for each name; with random task vectors unless they are given."""
    adapters = parts(backbone.model, len(names), rank=rank, scaling=alpha / rank, seed=seed)
    hidden = backbone.model.get_input_embeddings().weight.shape[1]
    drawn = torch.randn(len(names), hidden, generator=torch.Generator().manual_seed(seed))
    for stage, (name, factors) in enumerate(zip(names, adapters, strict=True), start=1):
        tensors, state = {}, {KEY: functional.normalize((vectors or drawn)[stage - 1], dim=0)}
        for site, factor in factors.items():
            key_a, key_b = factor_keys(site)
            tensors |= {key_a: factor.a, key_b: factor.b}
            state[mask_key(site)] = pack(factor.b != 0)
        manifest = manifest_of(name, stage, backbone.reference, "route")
        manifest["method"] |= {"name": "cast", "past": "none", "start": "shared", "route": route}
        manifest["training"] |= {"max_length": 128}
        manifest["data"] |= {"name": data.get(name, name)}
        config = config_of(backbone, factors, rank, alpha)
        write_adapter(package / name, tensors, config, manifest, {"README.md": "card\n"}, state)
    return package


def mean_vector(backbone: Backbone, examples: Any) -> torch.Tensor:
    """Return the direction in the middle of inputs' embeddings."""
    return functional.normalize(embeddings(backbone, prompt_ids(backbone, examples, max_length=128)).mean(dim=0), dim=0)


def members_of(package: Path) -> list[AdapterFolder]:
    """Return a package's members by stage."""
    from clora_cli.store.package import read_package

    return list(read_package([package]))
