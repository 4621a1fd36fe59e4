"""Which of a model's layers PEFT adapts as they are (layer L1).

``all-linear`` means every linear layer. PEFT refuses some (Mamba's output projections) and turns others into adapters of
parameters, which no plain LoRA folder holds (layers that are called like experts which Transformers keeps in one tensor). It
is asked on a model without weights, before anything is trained.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Collection, Iterable, Mapping, Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from clora_cli.base.errors import MismatchError, translated

if TYPE_CHECKING:
    from torch import nn

__all__ = [
    "ALL_LINEAR",
    "adaptable",
    "adapted_layers",
    "endings_of",
    "left_out",
    "matched",
    "target_names",
    "untouched",
]

ALL_LINEAR = "all-linear"
_LAYERS = "base_model.model."
# Entries of an adapter's configuration by which PEFT chooses layers.
_CHOOSING = (
    "target_modules",
    "exclude_modules",
    "modules_to_save",
    "layers_to_transform",
    "layers_pattern",
    "target_parameters",
)
_FUSED = 3  # axes of a tensor of several experts' matrices


def adaptable(model: nn.Module, sites: Sequence[str]) -> list[str]:
    """Return those linear layers that PEFT adapts as they are, in the order given; layers of one ending go together.

    Args:
        model: The base model, with or without weights; it stays as it is.
        sites: Paths of linear layers.
    """
    if not hasattr(model, "config") or _probe(model, sites) == set(sites):
        return list(sites)
    groups = {ending: [site for site in sites if _ending(site) == ending] for ending in endings_of(sites)}
    fit = {ending for ending, group in groups.items() if _probe(model, group) == set(group)}
    return [site for site in sites if _ending(site) in fit]


def left_out(model: nn.Module, sites: Collection[str], linear: Iterable[str]) -> list[str]:
    """Return what ``all-linear`` does not adapt, by names that people know: endings of layers, and fused experts.

    Args:
        model: The base model.
        sites: What is adapted.
        linear: All linear layers but the output layer.
    """
    layers = endings_of(site for site in linear if site not in sites)
    fused = {
        f"{_ending(path)}.{name}"
        for path, module in model.named_modules()
        for name, parameter in module.named_parameters(recurse=False)
        if parameter.ndim == _FUSED and not hasattr(module, "kernel_size")  # a convolution's has as many axes
    }
    return [*layers, *sorted(fused)]


def target_names(model: nn.Module, sites: Sequence[str]) -> str | list[str]:
    """Return the shortest ``target_modules`` by which PEFT finds exactly these layers: all, endings, or whole paths."""
    ways: tuple[str | list[str], ...] = (ALL_LINEAR, endings_of(sites))
    return next((way for way in ways if _probe(model, way) == set(sites)), list(sites))


def matched(model: nn.Module, names: Iterable[str]) -> set[str]:
    """Return the modules of any kind that PEFT takes a list of names for: those that have or end in one of them."""
    return {path for path, _ in model.named_modules() for name in names if path == name or path.endswith(f".{name}")}


def untouched(linear: Iterable[str], config: Mapping[str, Any], sites: Collection[str]) -> list[str]:
    """Return the linear layers that an adapter's configuration names and its weights leave out; PEFT warns of such.

    Args:
        linear: The paths of all linear layers of the base model.
        config: ``adapter_config.json``.
        sites: What the adapter has weights for, as the model names it.
    """
    from peft.tuners.tuners_utils import check_target_module_exists

    asked = SimpleNamespace(**{key: config.get(key) for key in _CHOOSING})
    if not asked.target_modules or asked.target_modules == ALL_LINEAR:
        return []
    return [path for path in linear if path not in sites and check_target_module_exists(asked, path)]


def adapted_layers(model: nn.Module, adapter: str) -> dict[str, nn.Module]:
    """Return the layers under PEFT that have low-rank factors of an adapter, by their paths in the base model."""
    return {
        name.removeprefix(_LAYERS): module
        for name, module in model.named_modules()
        if adapter in getattr(module, "lora_A", {}) or adapter in getattr(module, "lora_embedding_A", {})
    }


def _probe(model: nn.Module, targets: str | Sequence[str]) -> set[str] | None:
    """Return the layers that PEFT adapts for these targets; None if it refuses, or adapts more than layers."""
    import torch
    from peft import LoraConfig, get_peft_model

    if not targets:
        return set()
    try:
        with translated("PEFT", MismatchError, code="peft-refused"), torch.device("meta"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            config = LoraConfig(r=1, target_modules=targets if isinstance(targets, str) else list(targets))
            probed = get_peft_model(type(model)(copy.deepcopy(model.config)), config)
    except MismatchError:
        return None
    return None if config.target_parameters else set(adapted_layers(probed, "default"))


def endings_of(sites: Iterable[str]) -> list[str]:
    """Return the last parts of layers' paths, sorted."""
    return sorted({_ending(site) for site in sites})


def _ending(site: str) -> str:
    return site.rpartition(".")[2]
