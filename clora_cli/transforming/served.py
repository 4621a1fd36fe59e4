"""The files of one adapter in an export (layer L3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from clora_cli.algebra.lora import Factor, factor_keys
from clora_cli.base.files import to_json
from clora_cli.model.gguf_layout import GgufLayout
from clora_cli.options import ExportOptions
from clora_cli.store.adapter_config import CONFIG
from clora_cli.store.adapter_folder import WEIGHTS, AdapterFolder
from clora_cli.store.gguf_writing import write_gguf_adapter, write_gguf_model
from clora_cli.store.tensors import check_written, save_tensors

__all__ = ["RECORD", "Served", "ServedBase", "fill"]

RECORD = "clora-export.json"
_ADAPTER_GGUF, _MODEL_GGUF, _MODELFILE = "adapter.gguf", "model.gguf", "Modelfile"


@dataclass(frozen=True, eq=False)
class Served:
    """One adapter as a server gets it.

    Attributes:
        name: What requests call it; its folder.
        members: The adapters that it is made of.
        factors: Pairs of one rank and of scaling 1, by site.
        tables: The sites that are tables of embeddings.
        energy: The share of the energy that a cut to a rank kept; None without one.
    """

    name: str
    members: Sequence[AdapterFolder]
    factors: Mapping[str, Factor]
    tables: frozenset[str]
    energy: float | None

    @property
    def rank(self) -> int:
        """The rank that was written."""
        return next(iter(self.factors.values())).rank

    @property
    def template(self) -> str | None:
        """The prompt template of the data that it was trained on, if one is recorded for all."""
        found = {member.manifest.data.template if member.manifest else None for member in self.members}
        return found.pop() if len(found) == 1 else None

    def record(self) -> dict[str, Any]:
        """Return its part of the export's record."""
        sources = [{"task": member.task, "sha256": member.digest} for member in self.members]
        return {"name": self.name, "sources": sources, "rank": self.rank, "energy": self.energy}


@dataclass(frozen=True)
class ServedBase:
    """The base model, as the server has it.

    Attributes:
        name: What the server calls it.
        layout: Its layout in GGUF; None for other formats.
        file: Its GGUF file; None without one.
    """

    name: str | None
    layout: GgufLayout | None = None
    file: Path | None = None


def fill(folder: Path, served: Served, options: ExportOptions, base: ServedBase) -> None:
    """Write one adapter's files.

    Args:
        folder: The folder of the export; the adapter's own is made in it.
        served: The adapter.
        options: How.
        base: The base model.

    Raises:
        CloraError: If a number is not finite, or the server takes no adapter at a site.
    """
    target, dtype = folder / served.name, getattr(torch, options.dtype)
    tensors = _tensors(served, dtype)
    check_written(options.out / served.name, tensors.items())
    target.mkdir()
    if base.layout is None:
        save_tensors(target / WEIGHTS, tensors)
        (target / CONFIG).write_text(to_json(_config(served, options, base)), encoding="utf-8")
        return
    whole = base.file if options.loader == "ollama" else None
    if whole is not None:
        write_gguf_model(whole, target / _MODEL_GGUF, served.factors, base.layout, name=served.name)
    else:
        write_gguf_adapter(target / _ADAPTER_GGUF, served.factors, base.layout, name=served.name, dtype=dtype)
    if options.loader == "ollama":
        source = f"FROM ./{_MODEL_GGUF}" if whole else f"FROM {base.name}\nADAPTER ./{_ADAPTER_GGUF}"
        (target / _MODELFILE).write_text(f"{source}\n{_prompt(served)}", encoding="utf-8")


def _tensors(served: Served, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    tensors = {}
    for site, factor in served.factors.items():
        for key, tensor in zip(factor_keys(site, site in served.tables), (factor.a, factor.b), strict=True):
            tensors[key] = tensor.to(dtype)
    return tensors


def _config(served: Served, options: ExportOptions, base: ServedBase) -> dict[str, Any]:
    """Return a configuration with one rank and one scaling: no pattern, which servers ignore."""
    configs = [member.config for member in served.members]
    words = {site.rpartition(".")[2] for site in served.factors}
    return {
        "peft_type": "LORA",
        "task_type": next((config["task_type"] for config in configs if config.get("task_type")), None),
        "base_model_name_or_path": base.name,
        "inference_mode": True,
        "r": served.rank,
        "lora_alpha": served.rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": any(config.get("fan_in_fan_out") for config in configs),
        # PEFT would give layers that merely have the same last word adapters of their own; servers want nothing but that word.
        "target_modules": sorted(served.factors if options.loader == "peft" else words),
        "use_rslora": False,
        "use_dora": False,
        "modules_to_save": None,
    }


def _prompt(served: Served) -> str:
    """Return how Ollama makes prompts: as they come, but where the adapter learned conversations in the model's own form."""
    plain = "" if served.template in {"chat", None} else 'TEMPLATE """{{ .Prompt }}"""\n'
    return f"{plain}PARAMETER temperature 0\n"
