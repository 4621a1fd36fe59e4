"""Merge adapter folders: check, plan, compute site by site (layer L3)."""

from __future__ import annotations

import math
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from clora_cli import __version__, registry
from clora_cli.adapter_folder import AdapterFolder, check_place, finished
from clora_cli.base_layers import BaseLayers
from clora_cli.base_model import ModelReference, check_base, same_base
from clora_cli.data import origins_of
from clora_cli.errors import ArtifactError, MismatchError, OptionError
from clora_cli.intervals import check_sizes
from clora_cli.locks import NO_PATIENCE, Patience, locked
from clora_cli.lora import Factor, sharing
from clora_cli.merges import SEED, Merged, Merger
from clora_cli.package import base_at_hand, find_base
from clora_cli.progress import Advance, Progress, Silent
from clora_cli.spots import place

__all__ = ["DTYPES", "MergeOptions", "MergePlan", "merge_adapters", "plan_merge"]

Form = Literal["factors", "dense", "model"]
DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True, kw_only=True)
class MergeOptions:
    """What to make of adapters.

    Attributes:
        strategy: A merge.
        strategy_options: Its options' texts.
        weights: One weight per adapter; empty for ones.
        out: The folder to write.
        rank: Rank of the result; 0 for an exact concatenation where the merge is linear, dense deltas otherwise.
        dense: Write dense deltas also where factors would do.
        into_model: Write a whole model with the merge added to its weights.
        model: Base model, where the adapters do not name it or it lies elsewhere.
        dtype: Type of dense deltas: ``float32``, ``bfloat16`` or ``float16``.
        seed: Of merges that draw random numbers and of randomised singular value decompositions.
    """

    strategy: str = "sum"
    strategy_options: Mapping[str, str] = field(default_factory=dict)
    weights: tuple[float, ...] = ()
    out: Path = Path("merged")
    rank: int = 0
    dense: bool = False
    into_model: bool = False
    model: str | None = None
    dtype: str = "float32"
    seed: int = SEED

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            OptionError: If a value is out of range or two exclude each other.
        """
        check_sizes(vars(self))
        if self.rank < 0:
            raise OptionError(f"--rank {self.rank}: give a whole number of at least 1")
        if sum((bool(self.rank), self.dense, self.into_model)) > 1:
            raise OptionError("--rank, --dense and --into-model exclude each other")
        if self.dtype not in DTYPES:
            raise OptionError(f"--dtype {self.dtype}: choose one of {', '.join(DTYPES)}")
        if odd := next((weight for weight in self.weights if not math.isfinite(weight)), None):
            raise OptionError(f"--weights {odd}: give finite numbers")


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
        low_rank = self.merger.merge.linear and not any(member.is_dense for member in self.members)
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
        return _transposed(self.members)

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

    def recipe(self) -> dict[str, Any]:
        """Return what decides the result: two merges with equal recipes write equal bytes."""
        options, name = self.options, f"merge/{self.options.strategy}"
        chosen = registry.recorded(self.merger.merge) | {"weights": list(options.weights)}
        return {
            "task": options.out.name,
            "stage": max((member.stage or 0 for member in self.members), default=0) or len(self.members),
            "method": {"name": name, "options": {name: chosen}, "past": "none", "start": "fresh", "combine": "sum"},
            "base_model": self.base,
            "lora": {"form": self.form, "rank": self.rank, "dtype": options.dtype, "fan_in_fan_out": self.transposed},
            "parents": [{"task": member.task, "sha256": member.digest} for member in self.members],
            "data": {
                "name": options.out.name,
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
            "origins": [one.recorded() for member in self.members for one in origins_of(member.manifest)]
        }
        known = {"weights": self.reference.weights} if self.reference else {}
        base = {"base_model": {**self.base, **known}}
        return {**recipe, **base, "argv": list(argv), "versions": versions, "scores": dict(scores)}

    def finished(self) -> AdapterFolder | None:
        """Return the folder that this very plan made earlier, if it is there.

        Raises:
            OptionError: If the folder holds something that another plan made.
        """
        return finished(self.options.out, self.recipe())

    def sites(self, advance: Advance, names: Container[str] | None = None) -> Iterator[Merged]:
        """Compute the merge one site at a time, at all sites or at those named, and tell the advance."""
        for merged in self.merger.sites(names):
            yield merged
            advance(1, "")


def plan_merge(
    members: Sequence[AdapterFolder], options: MergeOptions, *, progress: Progress | None = None
) -> MergePlan:
    """Bind the strategy and check that the adapters fit together, and to their base model where it is here.

    Args:
        members: The adapters, at least one.
        options: How.
        progress: Told where the adapters' own word leads to the Hub.

    Raises:
        CloraError: Whatever is missing, damaged, wrong or does not fit together.
    """
    from clora_cli.transforming.whole_model import check_model

    plugin = registry.load("merges", options.strategy)
    merge = plugin(**registry.bind(plugin, options.strategy, options.strategy_options))
    if options.weights and len(options.weights) != len(members):
        raise OptionError(f"--weights gives {len(options.weights)} weights for {len(members)} adapters")
    needs_model = options.into_model or "base" in merge.needs
    reference = find_base(members, options.model, progress=progress) if needs_model or options.model else None
    _check_names(members, reference)
    merger = Merger(
        merge=merge,
        members=members,
        weights=options.weights,
        rank=None if options.dense or options.into_model else options.rank,
        seed=options.seed,
        layers=_layers(members, reference),
    )
    merger.check()
    if options.into_model:
        check_model(merger)
    return MergePlan(options, merger, reference)


def merge_adapters(
    plan: MergePlan,
    *,
    force: bool = False,
    argv: Sequence[str] = (),
    progress: Progress | None = None,
    patience: Patience = NO_PATIENCE,
) -> tuple[Path, Mapping[str, Any], bool]:
    """Carry out a plan.

    Args:
        plan: From ``plan_merge``.
        force: Replace another merge at its place.
        argv: The command line, for the manifest.
        progress: Who to tell.
        patience: What to do if another process writes there.

    Returns:
        The folder, its record (``energy`` where the rank was cut, ``left_out`` of a whole model), and whether it was made now
        (False: it was there).

    Raises:
        CloraError: If the result cannot be written; what was there stays.
    """
    from clora_cli.transforming.outputs import write_factors, write_merged
    from clora_cli.transforming.whole_model import write_model

    out, progress = plan.options.out, progress or Silent()
    if (there := _there(plan, force)) is not None:
        return there
    with locked([place(out)], patience=patience, progress=progress):
        if (there := _there(plan, force)) is not None:  # another process has made it meanwhile
            return there
        with progress.track(f"merge {plan.options.strategy}", len(plan.shapes)) as advance:
            write = {"factors": write_factors, "dense": write_merged, "model": write_model}[plan.form]
            scores = write(plan, advance, argv)
    if left := scores.get("left_out"):
        progress.note(f"note: left out of {out}, being neither merged weights nor settings: {', '.join(left)}")
    return out, scores, True


def _there(plan: MergePlan, force: bool) -> tuple[Path, Mapping[str, Any], bool] | None:
    """Return what an equal plan made, if it is there, and refuse what another did."""
    if plan.form == "model":
        return None
    check_place(plan.options.out)
    there = None if force else plan.finished()
    return None if there is None else (there.path, there.manifest.get("scores", {}), False)


def _layers(members: Sequence[AdapterFolder], reference: ModelReference | None) -> BaseLayers | None:
    """Return what the adapters' sites can be compared with; None if the base model is not here."""
    there = reference or base_at_hand(members)
    layers = BaseLayers(there, transposed=_transposed(members)) if there else None
    if layers and reference is None:
        try:
            layers.fitted(members)
        except ArtifactError:  # nobody asked for a comparison, and this model cannot be compared with
            return None
    return layers


def _transposed(members: Sequence[AdapterFolder]) -> bool:
    configs = [member.config or member.manifest["lora"] for member in members]
    return any(bool(config.get("fan_in_fan_out")) for config in configs)


def _check_names(members: Sequence[AdapterFolder], reference: ModelReference | None) -> None:
    """Refuse adapters of other base models; fingerprints, where there are any, were compared when they were read."""
    for member in members:
        if reference is not None:
            check_base(member.base, reference, member.path)
    named = [member for member in members if member.base.get("id")]
    for member in named[1:]:
        same = "fingerprint" in member.base and same_base(member.base, named[0].base)
        if reference is None and not same and member.base["id"] != named[0].base["id"]:
            raise MismatchError(
                f"{named[0].path} stands on '{named[0].base['id']}' and {member.path} on '{member.base['id']}'; "
                "if these are one model, name it with --model"
            )
