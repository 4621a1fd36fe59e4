"""A merge as a whole model: the base model with the merge added to its weights (layer L3)."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from clora_cli.algebra.lora import Factor
from clora_cli.base.errors import ArtifactError, MismatchError, OptionError
from clora_cli.base.files import new_folder, read_json, to_json
from clora_cli.merges import Merger
from clora_cli.model.base_layers import BaseLayers, Head
from clora_cli.model.checkpoint import CONFIG, entry_of
from clora_cli.model.place import Place
from clora_cli.store.manifest import MANIFEST
from clora_cli.store.tensors import read_tensors, save_tensors

if TYPE_CHECKING:
    from clora_cli.base.progress import Advance
    from clora_cli.transforming.merge_plan import MergePlan

__all__ = ["check_model", "write_model"]

# Configurations, tokenizers and licences: what is neither a weight nor code.
_CARRIED = {".json", ".model", ".txt", ".jinja", ".tiktoken", ".spm", ".bpe", ".vocab", ".tsv"}
_LICENCES = ("license", "licence", "notice", "copying", "use_policy")
# What leads a loader to weights that are not merged: records of other tools' weights, and of adapters.
_LEADING = ("adapter_", MANIFEST, "params.json", "consolidated")


def check_model(merger: Merger) -> BaseLayers:
    """Check that a merge can be added to the weights of its base model, one by one; return that model's layers.

    Raises:
        MismatchError: If the files hold a weight under no name or quantised, or a layer shares its weight with another and
            cannot have its own.
        OptionError: If there is no base model.
    """
    layers = merger.layers
    if layers is None:
        raise OptionError("--into-model needs the base model; pass --model", code="option-missing")
    seen: dict[tuple[object, ...], str] = {}
    for site, place in layers.stored(merger.shapes).items():
        other = layers.tied(site)
        if other and layers.head:  # which is given a weight of its own
            continue
        key = (place.parameter, place.expert, place.first)
        if key in seen:
            raise MismatchError(
                f"'{seen[key]}' and '{site}' of the adapters are one weight of the base model", code="layer-named-twice"
            )
        seen[key] = site
        if other:
            raise MismatchError(
                f"layer '{site}' shares its weight with '{other}' in the base model, which would change too; "
                "write the merge as an adapter: leave out --into-model",
                code="weight-tied",
            )
    return layers


def write_model(plan: MergePlan, advance: Advance, argv: Sequence[str]) -> Mapping[str, Any]:
    """Write the base model with the merge added to its weights, shard by shard, and what is no weight beside them.

    Sums are made in float32 and rounded once to the type that the weight is stored in. An output layer that is one with the
    table of embeddings gets a weight of its own where either changes.

    Returns:
        ``left_out``: what of the base model's folder was not carried over, as it may hold the weights as they were;
        ``untied``: the output layer's weight, where it was one with the table's.

    Raises:
        OptionError: If the folder is there already, or lies in the base model's.
        MismatchError: As ``check_model``, or if the type of a weight cannot hold its sum.
    """
    out, layers = plan.options.place, check_model(plan.merger)
    if out.exists():
        raise OptionError(f"{out} exists; choose another --into-model", code="output-exists")
    base = layers.reference.path
    if out.resolve().is_relative_to(base.resolve()):
        raise OptionError(
            f"--into-model {out} lies in the base model's folder, which is never changed; choose another",
            code="output-would-change-input",
        )
    places = layers.stored(plan.shapes)
    head = layers.head if any(map(layers.tied, places)) else None
    with new_folder(out) as folder:
        for part in layers.checkpoint.parts:
            here = {site: place for site, place in places.items() if place.parameter in part.tensors}
            tensors = read_tensors(part.path)
            if head:
                here = _untie(tensors, here, head)
            for merged in plan.sites(advance, here):
                _add(tensors, here[merged.site], merged.delta)
            save_tensors(folder / part.path.name, tensors)
        written = {part.path.name for part in layers.checkpoint.parts}
        left = list(_carry(base, folder, written, entry_of(base)))
        if head:
            _record_untied(folder, entry_of(base), head)
        record = {**plan.manifest(argv, {}), "schema": "clora.model/1"}
        (folder / MANIFEST).write_text(to_json(record), encoding="utf-8")
    return {"left_out": left, **({"untied": head.parameter} if head else {})}


def _untie(tensors: dict[str, Tensor], here: Mapping[str, Place], head: Head) -> dict[str, Place]:
    """Give the output layer its own copy of the table's weight; return the places of sites with that copy."""
    tensors.pop(head.parameter, None)  # which loading passes over while the two are one
    if head.key in tensors:
        tensors[head.parameter] = tensors[head.key].clone()
    own = {
        site: dataclasses.replace(place, parameter=head.parameter) for site, place in here.items() if site == head.site
    }
    return {**here, **own}


def _record_untied(folder: Path, entry: str | None, head: Head) -> None:
    """Record the output layer's own weight in a written model's configuration and index."""
    config = read_json(folder / CONFIG, "model configuration")
    parts = [config, *(part for part in (config.get("text_config"),) if isinstance(part, dict))]
    for part in parts:
        part["tie_word_embeddings"] = False
    (folder / CONFIG).write_text(to_json(config), encoding="utf-8")
    if entry and entry.endswith(".json"):
        index = read_json(folder / entry, "index of a model's files")
        index["weight_map"][head.parameter] = index["weight_map"][head.key]
        (folder / entry).write_text(to_json(index), encoding="utf-8")


def _add(tensors: Mapping[str, Tensor], place: Place, delta: Factor | Tensor) -> None:
    weight = place.view(tensors[place.parameter])
    wide = weight.to(torch.promote_types(weight.dtype, torch.float32))
    if not bool(wide.isfinite().all()):
        raise ArtifactError(
            f"weight '{place.parameter}' of the base model has numbers that are not finite",
            code="base-weight-not-finite",
        )
    weight.copy_(wide + (delta.delta() if isinstance(delta, Factor) else delta))
    if not bool(weight.isfinite().all()):
        raise MismatchError(
            f"the merged weight '{place.parameter}' is beyond {str(weight.dtype).removeprefix('torch.')}, in which the base "
            "model is stored; give the model in float32 or bfloat16",
            code="merged-weight-overflows",
        )


def _carry(base: Path, folder: Path, written: set[str], entry: str | None) -> Iterator[str]:
    """Copy what is neither weights nor code, and yield the names of everything else."""
    for item in sorted(base.iterdir()):
        if item.name in written or item.name.startswith("."):
            continue
        inner = [path for path in item.rglob("*") if not path.is_dir()] if item.is_dir() else [item]
        if item.name != entry and not (inner and all(map(_harmless, inner))):
            yield f"{item.name}/" if item.is_dir() else item.name
            continue
        for path in inner:
            target = folder / path.relative_to(base)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)


def _harmless(path: Path) -> bool:
    name = path.name.lower()
    if not path.is_file() or name.startswith(_LEADING) or name.endswith(".index.json"):
        return False
    return path.suffix.lower() in _CARRIED or name.startswith(_LICENCES)
