"""Adapters with feature distributions, for tests of routing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from support import data_of, write_random_adapter

from clora_cli.data import Example, load_task
from clora_cli.model.backbone import Backbone
from clora_cli.model.features import collect_moments, prompt_ids, prompt_sites
from clora_cli.model.linear_layers import find_sites
from clora_cli.store.adapter_folder import AdapterFolder, read_adapter
from clora_cli.store.distribution import Distribution
from clora_cli.store.feature_record import FeatureRecord

_HOW = {"source": "base", "pool": "prompt-mean", "text": "prompt", "max_length": 512}


def give_distribution(
    folder: Path, backbone: Backbone, examples: Sequence[Example], *, data: str, second: str = "diag", **how: Any
) -> AdapterFolder:
    """Write a folder's feature distribution, as ``clora stat-features`` would."""
    record = {**_HOW, **how}
    ids = prompt_ids(backbone, examples, text=record["text"], max_length=record["max_length"])
    sites = prompt_sites(backbone, list(find_sites(backbone.model)))
    moments = collect_moments(backbone, ids, sites, second=second, pool=record["pool"])
    reference = backbone.reference
    base = {"id": reference.id, "fingerprint": reference.fingerprint, "kind": reference.kind}
    entry = {"name": data, "split": "train", "rows": len(examples), "fingerprint": "0"}
    Distribution(
        moments, FeatureRecord({**record, "base_model": base, "second_moment": second, "data": [entry]})
    ).write(folder / "features.clora")
    return read_adapter(folder)


def write_routable(package: Path, backbone: Backbone, names: Sequence[str], *, rows: int = 60, **how: Any) -> Path:
    """Write a package of random adapters, one for each task that ``--data`` names, with distributions of training rows."""
    for stage, name in enumerate(names, start=1):
        task = load_task(name)
        data = data_of(name, []) | {"source": task.source, "metric": task.metric, "train_rows": rows}
        write_random_adapter(package / task.name, backbone, stage=stage, manifest={"data": data})
        give_distribution(package / task.name, backbone, task.train[:rows], data=task.name, **how)
    return package
