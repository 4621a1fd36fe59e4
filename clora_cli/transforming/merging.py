"""Merge adapter folders: check, plan, compute site by site (layer L3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from clora_cli.base import registry
from clora_cli.base.errors import ArtifactError, MismatchError, OptionError
from clora_cli.base.progress import Progress, Silent
from clora_cli.merges import Merger
from clora_cli.model.base_layers import BaseLayers
from clora_cli.model.base_model import ModelReference, check_base, same_base
from clora_cli.processes.locks import NO_PATIENCE, Patience, locked
from clora_cli.processes.spots import place
from clora_cli.store.adapter_folder import AdapterFolder
from clora_cli.store.adapter_writing import check_place
from clora_cli.store.heads import refuse_heads
from clora_cli.store.package import base_at_hand, find_base

__all__ = ["merge_adapters", "plan_merge"]

from clora_cli.options import MergeOptions
from clora_cli.transforming.merge_plan import MergePlan, transposed


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
    merge = plugin(**registry.bind(plugin, options.strategy, options.texts))
    if options.weights and len(options.weights) != len(members):
        raise OptionError(
            f"--weights gives {len(options.weights)} weights for {len(members)} adapters",
            code="merge-weight-count-differs",
        )
    needs_model = options.into_model or "base" in merge.needs
    reference = find_base(members, options.model, progress=progress) if needs_model or options.model else None
    _check_names(members, reference)
    merger = Merger(
        merge=merge,
        members=members,
        weights=options.weights,
        rank=options.rank,
        seed=options.seed,
        layers=_layers(members, reference),
    )
    merger.check()
    if options.into_model:
        refuse_heads(members, "--into-model writes the base model's own weights")
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

    out, progress = plan.options.place, progress or Silent()
    if (there := _there(plan, force)) is not None:
        return there
    with locked([place(out)], patience=patience, progress=progress):
        if (there := _there(plan, force)) is not None:  # another process has made it meanwhile
            return there
        with progress.track(f"merge {plan.options.strategy}", len(plan.shapes)) as advance:
            write = {"factors": write_factors, "dense": write_merged, "model": write_model}[plan.form]
            scores = write(plan, advance, argv)
    if head := scores.get("untied"):
        progress.note(
            f"note: '{head}' has numbers of its own in {out}, apart from the embeddings' (tie_word_embeddings is false)"
        )
    if left := scores.get("left_out"):
        progress.note(f"note: left out of {out}, being neither merged weights nor settings: {', '.join(left)}")
    return out, scores, True


def _there(plan: MergePlan, force: bool) -> tuple[Path, Mapping[str, Any], bool] | None:
    """Return what an equal plan made, if it exists, and refuse the result of another plan."""
    if plan.form == "model":
        return None
    check_place(plan.options.place)
    there = None if force else plan.finished()
    if there is None or there.manifest is None:
        return None
    return there.path, there.manifest.scores or {}, False


def _layers(members: Sequence[AdapterFolder], reference: ModelReference | None) -> BaseLayers | None:
    """Return the base model's layers to compare the adapters' sites with; None if the base model is not here."""
    there = reference or base_at_hand(members)
    layers = BaseLayers(there, transposed=transposed(members)) if there else None
    if layers and reference is None:
        try:
            layers.fitted(members)
        except ArtifactError:  # no --model was given, and the recorded one cannot be compared with
            return None
    return layers


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
                "if these are one model, name it with --model",
                code="base-models-differ",
            )
