"""Take feature distributions: one pass over the inputs, one file an adapter (layer L3)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from clora_cli.algebra.privacy import Ball, noise_multiplier, release
from clora_cli.algebra.statistics import Moments
from clora_cli.base.errors import CloraError, InterruptedRunError, MismatchError, ReplacedError
from clora_cli.base.progress import Progress, Silent
from clora_cli.base.versions import versions
from clora_cli.data import Rows, uses_chat
from clora_cli.model.backbone import Backbone, load_backbone, pick_device
from clora_cli.model.bank import AdapterBank
from clora_cli.model.features import collect_moments, prompt_ids, prompt_sites, select_sites
from clora_cli.model.linear_layers import linear_shape, usual_sites
from clora_cli.model.places import Places, places_of
from clora_cli.model.text_encoder import EMBEDDING, embedding_width, load_text_encoder
from clora_cli.options import FeatureOptions
from clora_cli.processes.locks import NO_PATIENCE, Patience, locked
from clora_cli.processes.meeting import agree, together
from clora_cli.processes.ranks import is_main_process
from clora_cli.processes.spots import Spot, inside
from clora_cli.store.adapter_folder import AdapterFolder, is_adapter
from clora_cli.store.distribution import Distribution
from clora_cli.store.feature_record import FeatureRecord
from clora_cli.store.package import changed, marks
from clora_cli.store.steady import mark
from clora_cli.store.withholding import withhold
from clora_cli.transforming.featuring import FeatureJob, FeaturePlan, State
from clora_cli.transforming.public_balls import public_balls
from clora_cli.transforming.row_groups import groups_of

__all__ = ["FeatureResult", "sizes", "spots_of", "take_features"]


@dataclass(frozen=True, eq=False)
class FeatureResult:
    """An adapter and its feature distribution.

    Attributes:
        member: The adapter.
        state: What was done: ``made``, ``replaced``, ``added`` (rows to what was there), or ``up to date``.
        distribution: The distribution as it is now.
    """

    member: AdapterFolder
    state: State
    distribution: Distribution


def take_features(
    plan: FeaturePlan,
    progress: Progress | None = None,
    *,
    patience: Patience = NO_PATIENCE,
    packages: Sequence[Path] = (),
) -> list[FeatureResult]:
    """Carry out a plan, with one load of the base model; several processes share each pass out.

    Each file is written as soon as it is complete, by the first process alone.

    Args:
        plan: From ``plan_features``.
        progress: Who to tell.
        patience: What to do if another process writes to one of the adapters.
        packages: Packages that were read as a whole: nothing may become a member of one meanwhile and be left out.

    Returns:
        One result for each of the plan's jobs, in their order.

    Raises:
        CloraError: If an adapter does not fit the model, or a file cannot be written; what was there stays.
        MismatchError: If one of several processes would do something else than the first one.
        InterruptedRunError: After Ctrl-C; the files that are complete stay.
    """
    progress = progress or Silent()
    agree(lambda: _facts(plan))
    results = {
        job: FeatureResult(job.member, job.state, job.before or Distribution({}, job.recipe)) for job in plan.jobs
    }
    todo = [job for job in plan.jobs if job.state != "up to date"]
    before = [mark(job.member.features) for job in todo]
    try:
        if plan.options.privacy is not None and is_main_process():
            with _alone(plan, packages, patience, progress):
                _withhold(plan, progress)
        if todo:
            _warn(plan, todo, progress)
            with _alone(plan, packages, patience, progress), together(pick_device(plan.options.device)):
                for job, distribution in _taken(plan, todo, progress):
                    results[job] = FeatureResult(job.member, job.state, distribution)
    except KeyboardInterrupt:
        # A file is there a moment before whoever wrote it says so.
        written = sum(mark(job.member.features) != file for job, file in zip(todo, before, strict=True))
        raise InterruptedRunError(
            f"interrupted with {written} of {len(todo)} feature distributions written; give the same command again",
            code="interrupted",
        ) from None
    made = [results[job] for job in plan.jobs]
    if plan.options.privacy is not None and (most := max(len(result.distribution.sites) for result in made)) > 1:
        progress.note(
            f"note: {most} sites share the privacy budget; with --layer and --module fewer get less noise each"
        )
    return made


@contextlib.contextmanager
def _alone(plan: FeaturePlan, packages: Sequence[Path], patience: Patience, progress: Progress) -> Iterator[None]:
    """Keep other writers off the adapters; the first process does that for all."""
    if not is_main_process():
        yield
        return
    members = [job.member for job in plan.jobs]
    with locked(spots_of(members, packages), patience=patience, progress=progress):
        inner = {path: [one for one in members if one.path.parent.resolve() == path.resolve()] for path in packages}
        odd = [path for path, read in inner.items() if changed(path, read)]
        odd += [job.member.path for job in plan.jobs if job.outdated]
        if odd:
            raise ReplacedError(f"{odd[0]} changed after it was read; try again", code="replaced-while-read")
        yield


def _facts(plan: FeaturePlan) -> dict[str, Any]:
    """Return what all processes must agree on; names of models and data may be paths, which differ from disk to disk."""
    local = {"model", "encoder", "data", "device"}
    chosen = {name: value for name, value in asdict(plan.options).items() if name not in local}
    jobs = [
        {"state": job.state, "data": [(rows.task.fingerprint, len(rows.examples)) for rows in job.rows]}
        for job in plan.jobs
    ]
    return {
        **chosen,
        "base_model": plan.reference.fingerprint,
        "encoder": plan.encoder.fingerprint if plan.encoder else "",
        "device": pick_device(plan.options.device).type,
        "package": marks(job.member for job in plan.jobs),
        "jobs": {f"{job.member.task}": fact for job, fact in zip(plan.jobs, jobs, strict=True)},
    }


def spots_of(members: Sequence[AdapterFolder], packages: Sequence[Path]) -> list[Spot]:
    """Return what has one writer at a time where distributions go: packages, and adapters that were named by themselves."""
    whole = {path.resolve() for path in packages}
    return [inside(path) for path in whole] + [
        inside(member.path) for member in members if member.path.parent.resolve() not in whole
    ]


def sizes(plan: FeaturePlan) -> dict[FeatureJob, dict[str, int]]:
    """Work out, on a model without weights, the sites of each job and the widths of their features.

    Raises:
        CloraError: If an adapter does not fit the model, or no site is left.
    """
    if plan.encoder:
        return {job: {EMBEDDING: embedding_width(plan.encoder)} for job in plan.jobs}
    places = places_of(plan.reference)
    backbone = Backbone(places.model, None, plan.reference, torch.device("meta"), torch.float32)
    found = {}
    for job in plan.jobs:
        sites = _sites(backbone, job.member.on(places), plan.options)
        shapes = {site: linear_shape(backbone.model.get_submodule(site)) for site in sites}
        found[job] = {site: shape[0] for site, shape in shapes.items() if shape is not None}
    return found


def _withhold(plan: FeaturePlan, progress: Progress) -> None:
    """Take the checksums of the private rows out of the adapters' manifests, and out of those in the same packages."""
    secret = {rows.task.fingerprint for job in plan.jobs for rows in job.rows}
    given = [job.member.path for job in plan.jobs]
    beside = [
        path for package in {one.parent for one in given} for path in sorted(package.iterdir()) if is_adapter(path)
    ]
    real = {path.resolve() for path in given}
    changed = [path for path in dict.fromkeys((*given, *beside)) if withhold(path, secret)]
    if others := [str(path) for path in changed if path.resolve() not in real]:
        progress.note(f"note: the checksum of these rows is withheld in {', '.join(others)} too, which trained on them")


def _taken(
    plan: FeaturePlan, todo: Sequence[FeatureJob], progress: Progress
) -> Iterator[tuple[FeatureJob, Distribution]]:
    options = plan.options
    device = pick_device(options.device)
    if plan.encoder:
        backbone = load_text_encoder(plan.encoder, device=device, dtype=options.dtype)
        sites = {job: [EMBEDDING] for job in todo}
    else:
        backbone = load_backbone(
            plan.reference, device=device, dtype=options.dtype, shard=options.shard, progress=progress
        )
        places = Places(backbone.model)
        sites = {job: _sites(backbone, job.member.on(places), options) for job in todo}
    for job in todo:
        if job.state == "added" and job.before is not None and set(sites[job]) != set(job.before.sites):
            raise MismatchError(
                f"rows cannot be added to {job.member.features}: it has other sites; pass --force instead",
                code="rows-not-addable",
            )
    everywhere = sorted({site for job in todo for site in sites[job]})
    balls = public_balls(backbone, everywhere, options) if options.privacy is not None else {}
    for job in todo:
        own = {site: balls[site] for site in sites[job] if site in balls}
        moments = _moments(backbone, job, sites[job], own, options, progress)
        distribution = Distribution(moments, _record(job, own, options))
        if is_main_process():
            job.member.give_features(distribution)
        yield job, distribution


def _moments(
    backbone: Backbone,
    job: FeatureJob,
    sites: Sequence[str],
    balls: Mapping[str, Ball],
    options: FeatureOptions,
    progress: Progress,
) -> dict[str, Moments]:
    ids = [tokens for rows in job.rows for tokens in _ids(backbone, rows, options, progress)]
    bank = AdapterBank(backbone.model)
    bank.activate([job.member.on(bank.places).deltas()] if options.source == "adapted" else [])
    change: dict[str, Any] = {"change": lambda site, vectors: balls[site].clipped(vectors)} if balls else {}
    with progress.track(f"stat-features {job.member.task}", len(ids)) as advance:
        reading: dict[str, Any] = {"pool": options.pool, "batch_size": options.batch_size}
        groups = groups_of(backbone, job.rows, ids, sites, options, **reading)
        reading |= {"done": lambda rows: advance(rows, ""), "groups": groups}
        by_site = collect_moments(backbone, ids, sites, second=options.second_moment, **change, **reading)
    bank.clear()
    if odd := next((site for site, moments in by_site.items() if not moments.mean.isfinite().all()), None):
        raise CloraError(
            f"features at '{odd}' are not finite in {options.dtype}; pass --dtype float32", code="features-not-finite"
        )
    if options.privacy is not None:
        sigma = noise_multiplier(options.privacy.epsilon, options.privacy.delta)
        return {site: release(moments, balls[site], len(by_site), sigma) for site, moments in by_site.items()}
    if job.state == "added" and job.before is not None:
        return {site: job.before.sites[site] + moments for site, moments in by_site.items()}
    return by_site


def _ids(backbone: Backbone, rows: Rows, options: FeatureOptions, progress: Progress) -> list[list[int]]:
    chat = not options.encoder and uses_chat(rows.task, backbone.tokens)
    ids = prompt_ids(backbone, rows.examples, text=options.text, max_length=options.max_length, chat=chat)
    for remark in backbone.tokens.remarks(options.max_length, max(map(len, ids), default=0)):
        progress.note(f"note: {rows.task.name}: {remark}")
    return ids


def _sites(backbone: Backbone, member: AdapterFolder, options: FeatureOptions) -> list[str]:
    """Return an adapter's sites and the base model's query and value projections, those that see the prompt.

    Any two adapters of a base model have the latter in common, whatever they change: they can be routed together.
    """
    # Experts in one tensor show no output of their own, and are no layers by these names.
    if not (reached := prompt_sites(backbone, {*member.deltas(), *usual_sites(backbone.model)})):
        raise MismatchError(
            f"adapter {member.path} changes no layer that sees the prompt", code="no-layer-reached-by-prompt"
        )
    return select_sites(reached, options.layer, options.module)


def _record(job: FeatureJob, balls: Mapping[str, Ball], options: FeatureOptions) -> FeatureRecord:
    record = {**job.recipe.raw, "versions": versions("torch", "transformers")}
    if options.privacy is not None:
        record["privacy"] = options.privacy.recorded(balls)
    if job.state == "added" and job.before is not None:
        record["data"] = [*job.before.record.raw["data"], *record["data"]]
    return FeatureRecord(record)


def _warn(plan: FeaturePlan, todo: Sequence[FeatureJob], progress: Progress) -> None:
    privacy = plan.options.privacy
    for job in todo:
        if privacy is not None and privacy.delta * job.count >= 1:
            progress.warn(
                f"--dp-delta {privacy.delta:g} is no less than one in {job.count} inputs of {job.member.path}: "
                "a release that gives a whole input away could keep it; pass a far smaller one"
            )
        if spent := job.before and job.before.record.privacy:
            so = (
                "both together reveal more than either: the epsilons add up"
                if privacy is not None
                else "the new one is exact and promises nothing"
            )
            progress.warn(f"{job.member.features} was a private release with epsilon {spent.epsilon:g}; {so}")
