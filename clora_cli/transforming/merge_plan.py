"""A merge that can start: the form, rank, recipe and manifest of its result (layer L3)."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from clora_cli import __version__
from clora_cli.algebra.lora import Factor, sharing
from clora_cli.base import registry
from clora_cli.base.progress import Advance
from clora_cli.data import origins_of
from clora_cli.merges import Merged, Merger
from clora_cli.model.base_model import ModelReference
from clora_cli.options import MergeOptions
from clora_cli.store.adapter_folder import AdapterFolder
from clora_cli.store.adapter_writing import finished
from clora_cli.store.heads import Head, has_head, head_of, united

__all__ = ["MergePlan", "transposed"]

Form = Literal["factors", "dense", "model"]


@dataclass(frozen=True, eq=False)
class MergePlan:
    """A merge that can start: its inputs exist and fit together.

    Attributes:
        options: What was asked for.
        merger: The merge, with its adapters.
        reference: The base model, where it is given, or the merge or its result needs it; else None.
    """

    options: MergeOptions
    merger: Merger
    reference: ModelReference | None

    @property
    def members(self) -> Sequence[AdapterFolder]:
        """The adapters, in the order given."""
        return self.merger.members

    @property
    def shapes(self) -> Mapping[str, tuple[int, int]]:
        """Site to (out, in), sites sorted."""
        return self.merger.shapes

    @property
    def form(self) -> Form:
        """What is written: factors, dense deltas or a whole model."""
        if self.options.into_model:
            return "model"
        merge = self.merger.merge
        low_rank = (merge.linear or merge.low_rank) and not any(member.is_dense for member in self.members)
        return "factors" if not self.options.dense and (self.rank or low_rank) else "dense"

    @property
    def rank(self) -> int:
        """The rank to cut the result to; 0 for no cut."""
        return self.merger.cut

    @property
    def total_rank(self) -> int:
        """The rank of an exact sum: the largest sum of ranks at a site, where factors of one ``lora_A`` count once."""
        held: dict[str, list[Factor]] = {site: [] for site in self.shapes}
        for deltas in self.merger.deltas:
            for site, delta in deltas.items():
                held[site] += [delta] if isinstance(delta, Factor) else []
        return max(sum(factors[group[0]].rank for group in sharing(factors)) for factors in held.values())

    @property
    def transposed(self) -> bool:
        """Whether the adapters say that the base model stores its weights as (in, out), as GPT-2 does."""
        return transposed(self.members)

    @property
    def base(self) -> dict[str, Any]:
        """What the result records of its base model: the fullest record among the members'."""
        records: list[dict[str, Any]] = [dict(member.base) for member in self.members]
        fullest = max(records, key=len)
        if self.reference is not None:
            fullest |= {"fingerprint": self.reference.fingerprint, "kind": self.reference.kind}
        # PEFT leaves out the name of a model that it was given in memory.
        fullest["id"] = fullest.get("id") or (self.reference.id if self.reference else "")
        return fullest

    @property
    def head(self) -> Head | None:
        """The classification head of all members together, of a task the last one's; None where none has one."""
        heads = [head_of(member) for member in self.members if has_head(member)]
        return united(heads) if heads else None

    def recipe(self) -> dict[str, Any]:
        """Return what decides the result: two merges with equal recipes write equal bytes."""
        options, name = self.options, f"merge/{self.options.strategy}"
        plugins = registry.records({"merges": [options.strategy]})
        chosen = registry.recorded(self.merger.merge) | {"weights": list(options.weights)}
        return {
            "task": options.place.name,
            "stage": max((member.stage or 0 for member in self.members), default=0) or len(self.members),
            "method": {
                "name": name,
                "options": {name: chosen},
                "past": "none",
                "start": "fresh",
                "combine": "sum",
                **plugins,
            },
            "base_model": self.base,
            "lora": {"form": self.form, "rank": self.rank, "dtype": options.dtype, "fan_in_fan_out": self.transposed},
            "parents": [{"task": member.task, "sha256": member.digest} for member in self.members],
            "data": {
                "name": options.place.name,
                "source": "merged adapters",
                "merged": list(dict.fromkeys(name for member in self.members for name in member.data_names)),
            },
            "training": {},
            "seed": options.seed,
        }

    def manifest(self, argv: Sequence[str], scores: Mapping[str, Any]) -> dict[str, Any]:
        """Return the manifest: the recipe with what came of it."""
        versions = {"clora": __version__, "torch": torch.__version__}
        recipe = self.recipe()
        # Beside the recipe, which older merges have without it.
        recipe["data"] |= {
            "origins": [origin.recorded() for member in self.members for origin in origins_of(member.manifest)]
        }
        known = self.reference.described() if self.reference else {}
        base = {"base_model": {**self.base, **{key: known[key] for key in ("weights", "settings") if known}}}
        head = {"head": self.head.recorded()} if self.head else {}
        return {**recipe, **base, **head, "argv": list(argv), "versions": versions, "scores": dict(scores)}

    def finished(self) -> AdapterFolder | None:
        """Return the folder that this very plan made earlier, if it is there.

        Raises:
            OptionError: If the folder holds something that another plan made.
        """
        return finished(self.options.place, self.recipe())

    def sites(self, advance: Advance, names: Container[str] | None = None) -> Iterator[Merged]:
        """Compute the merge one site at a time, at all sites or at those named, and tell the advance."""
        for merged in self.merger.sites(names):
            yield merged
            advance(1, "")


def transposed(members: Sequence[AdapterFolder]) -> bool:
    """Return whether any of some adapters says that the base model stores its weights as (in, out)."""
    configs = [member.config or (member.manifest.lora.raw if member.manifest else {}) for member in members]
    return any(bool(config.get("fan_in_fan_out")) for config in configs)
