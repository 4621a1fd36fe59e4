"""One base model, any combination of adapters, any tasks: the stage x task scores (layer L3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from clora_cli.base import registry
from clora_cli.base.errors import ArtifactError, OptionError
from clora_cli.base.legible import shortened
from clora_cli.base.progress import Progress, Silent
from clora_cli.data import Task
from clora_cli.data.findings import few
from clora_cli.data.tools import check_kind
from clora_cli.model.base_model import ModelReference, check_base, is_local
from clora_cli.options import EvalOptions, RouteOptions, merges, ways
from clora_cli.processes.meeting import agree, together
from clora_cli.store.adapter_folder import AdapterFolder
from clora_cli.store.heads import check_heads
from clora_cli.store.package import base_at_hand, find_base, marks
from clora_cli.store.scores import AdapterRef, BaseRef, ScoreRow, Scores

if TYPE_CHECKING:
    from clora_cli.evaluation.bench import Bench
    from clora_cli.evaluation.combine import Combination
    from clora_cli.evaluation.retention import Retainer
    from clora_cli.model.backbone import Backbone
    from clora_cli.model.base_layers import BaseLayers

__all__ = ["check_combination", "check_scorable", "combination_of", "evaluate", "how_routed", "mergeable", "way_of"]


def evaluate(
    members: Sequence[AdapterFolder],
    tasks: Sequence[Task],
    options: EvalOptions,
    *,
    package: str = "",
    progress: Progress | None = None,
) -> Scores:
    """Score adapters on tasks, with one load of the base model.

    Args:
        members: The adapters, by stage; none for the base model alone.
        tasks: What to score on.
        options: How.
        package: The name to record.
        progress: Who to tell.

    Raises:
        CloraError: If adapters, base model, tasks and options do not fit together.
    """
    from clora_cli.evaluation.bench import Bench, encoded
    from clora_cli.evaluation.choosing import choosable
    from clora_cli.evaluation.retention import Retainer, probes_of
    from clora_cli.model.backbone import load_backbone, pick_device

    progress = progress or Silent()
    check_scorable(tasks, options)
    probes = probes_of(options.retention)
    combine = way_of(members, options.combine)
    reference = find_base(members, options.model, options.revision, progress)
    check_heads(members, reference)
    for task in tasks:
        check_kind(task, reference)
    if reference.kind == "encoder":
        tasks = choosable(members, tasks, options, progress)
    for member in members:
        check_base(member.base, reference, member.path)
    _tell_unowned(members, tasks, combine, progress)
    if probes and not members:
        progress.note("note: --retention tells what adapters leave of general ability, and none are named")
    layers = mergeable(members, combine, reference)
    routed = how_routed(members, combine, options)
    device = pick_device(options.device)
    read = {"data": tasks, "calibrate": routed[1] if routed else ()}
    read |= {f"retention {probe.name}": probe.tasks for probe in probes}
    agree(lambda: _facts(members, read, options, reference, device))
    with together(device):
        backbone = load_backbone(
            reference,
            device=device,
            dtype=options.dtype,
            quantize=options.quantize,
            shard=options.shard,
            progress=progress,
        )
        combination = combination_of(backbone, members, combine, routed, layers, progress)
        bench = Bench(combination, encoded(backbone, tasks, options, progress), options, progress)
        retainer = Retainer(backbone, combination, probes, options, progress)
        rows = _rows(members, tasks, combine, options, bench, retainer)
    method = ", ".join(sorted({member.manifest.method.name for member in members if member.manifest})) or "none"
    base = BaseRef(reference.id, reference.fingerprint)
    order = tuple(member.task for member in members)
    return Scores(base, package, method, combine, options.score, order, tuple(rows), settings=options.recorded())


def _tell_unowned(members: Sequence[AdapterFolder], tasks: Sequence[Task], combine: str, progress: Progress) -> None:
    """Report tasks that the base model answers alone, because adapters act on their own tasks and these have none."""
    from clora_cli.evaluation.combine import active

    others = [task.name for task in tasks if not active(members, combine, task.name)]
    if others and combine != "none":
        progress.note(
            f"note: no adapter is for {few(others)}, which the base model answers alone: adapters act on their own tasks here; let them "
            "act by --combine route, sum or last"
        )


def _facts(
    members: Sequence[AdapterFolder],
    read: Mapping[str, Sequence[Task]],
    options: EvalOptions,
    reference: ModelReference,
    device: Any,
) -> dict[str, Any]:
    """Return facts on which all processes must agree; names of models and tasks may be paths, which differ between machines."""
    chosen = {name: value for name, value in vars(options).items() if name not in {"model", "calibrate", "device"}}
    return {
        **chosen,
        "base_model": reference.fingerprint,
        "device": device.type,
        "package": marks(members),
        **{what: {task.name: task.fingerprint for task in tasks} for what, tasks in read.items()},
    }


def _rows(
    members: Sequence[AdapterFolder],
    tasks: Sequence[Task],
    combine: str,
    options: EvalOptions,
    bench: Bench,
    retainer: Retainer,
) -> list[ScoreRow]:
    from clora_cli.evaluation.combine import active

    seen = options.seen or (options.matrix and bench.chooses)  # there are no classes before a task has been learned
    first = (1 if seen else 0) if options.matrix else len(members)
    rows = []
    for stage in range(first, len(members) + 1):
        chosen = _seen(tasks, members, stage) if seen else tasks
        scores = {task.name: bench.score(task, active(members[:stage], combine, task.name)) for task in chosen}
        after = members[stage - 1].task if stage else ""
        references = tuple(AdapterRef(member.task, member.digest) for member in members[:stage])
        kept = retainer.retentions(partial(active, members[:stage], combine)) if stage else {}
        rows.append(ScoreRow(stage, after, references, scores, kept))
    return rows


def check_combination(members: Sequence[AdapterFolder], options: EvalOptions) -> None:
    """Check that adapters can be combined as asked, as far as possible without fetching the base model.

    Raises:
        CloraError: If they do not agree on how, or a merge of them is not possible.
    """
    there = find_base(members, options.model) if options.model and is_local(options.model) else base_at_hand(members)
    mergeable(members, way_of(members, options.combine), there)


def mergeable(members: Sequence[AdapterFolder], combine: str, reference: ModelReference | None) -> BaseLayers | None:
    """Check that adapters can be combined, if ``combine`` is a merge or they are prompts; return the layers that a merge needs.

    Raises:
        CloraError: If they cannot.
    """
    if any(member.is_prompt for member in members):
        from clora_cli.evaluation.prompted import check_way

        check_way(members, combine)
    if combine not in merges() or not members:
        return None
    from clora_cli.evaluation.combine import merger_of
    from clora_cli.model.base_layers import BaseLayers

    layers = BaseLayers(reference) if reference else None
    merger_of(members, combine, layers).check()
    return layers


def combination_of(
    backbone: Backbone,
    members: Sequence[AdapterFolder],
    combine: str,
    routed: tuple[RouteOptions, list[Task]] | None,
    layers: BaseLayers | None,
    progress: Progress,
) -> Combination:
    """Return what puts adapters into the base model.

    Args:
        backbone: The base model.
        members: The adapters.
        combine: How, from ``way_of``.
        routed: From ``how_routed``.
        layers: From ``mergeable``.
        progress: Warned of foreign adapters that lack weights for layers that they name.
    """
    from clora_cli.evaluation.choosing import Classified
    from clora_cli.evaluation.combine import Fixed, Routed
    from clora_cli.evaluation.prompted import Prompted
    from clora_cli.model.bank import AdapterBank

    if any(member.is_prompt for member in members):
        return Prompted(backbone, members, combine)
    bank = AdapterBank(backbone.model)
    members = [member.on(bank.places) for member in members]
    if foreign := [member for member in members if member.manifest is None]:
        _warn_of_gaps(backbone, foreign, progress)
    found: Combination = Routed(backbone, bank, members, *routed) if routed else Fixed(bank, members, combine, layers)
    return Classified(backbone, members, found) if backbone.kind == "encoder" else found


def _warn_of_gaps(backbone: Backbone, members: Sequence[AdapterFolder], progress: Progress) -> None:
    from clora_cli.model.linear_layers import linear_layers
    from clora_cli.model.targets import untouched

    linear = linear_layers(backbone.model)
    for member in members:
        if gaps := untouched(linear, member.config, member.sites):
            progress.warn(
                f"adapter {member.path} has no weights for {len(gaps)} layers that its adapter_config.json names ('{gaps[0]}'): "
                "they stay as in the base model"
            )


def how_routed(
    members: Sequence[AdapterFolder], combine: str, options: EvalOptions
) -> tuple[RouteOptions, list[Task]] | None:
    """Return how inputs choose among adapters, and the tasks that tell when to take none; None where they do not choose.

    Raises:
        OptionError: If options are for routing, and the adapters are combined otherwise.
    """
    from clora_cli.routing.route_settings import calibration_tasks, route_options

    if combine != "route" and (options.route or options.calibrate):
        raise OptionError(
            f"these adapters are combined by {combine}; pass --combine route to use routing options",
            code="adapters-not-routed",
        )
    if combine not in {"route", "learned"} or not members:
        return None
    how = RouteOptions(similarity="learned") if combine == "learned" else route_options(members, options.route)
    return how, calibration_tasks(members, how, options.calibrate)


def way_of(members: Sequence[AdapterFolder], combine: str) -> str:
    """Return how adapters are combined: as asked, or as they themselves say.

    Raises:
        CloraError: If they do not agree, or say what is not here.
    """
    if combine != "auto":
        return combine
    wanted = {member.combine for member in members}
    if not members:
        return "none"
    if wanted == {None} and len(members) == 1:
        return "sum"  # a single adapter of another tool
    if len(wanted) > 1 or None in wanted:
        raise OptionError(
            f"these adapters record different ways to be combined; pass --combine {'|'.join(ways()[1:])}",
            code="ways-to-combine-differ",
        )
    found = str(wanted.pop())
    needed = registry.missing("merges", found, members[0].manifest and members[0].manifest.method.raw)
    if needed or found not in ways()[1:]:
        raise ArtifactError(
            f"adapter {members[0].path} is to be combined by '{shortened(found)}', which is not here; "
            f"{needed or 'upgrade clora'}, or pass --combine",
            code="way-to-combine-unknown",
        )
    return found


def _seen(tasks: Sequence[Task], members: Sequence[AdapterFolder], stage: int) -> list[Task]:
    """Return the tasks that are not those of later stages."""
    later = {name for member in members[stage:] for name in (member.task, *member.data_names)}
    return [task for task in tasks if task.name not in later]


def check_scorable(tasks: Sequence[Task], options: EvalOptions) -> None:
    """Refuse tasks that cannot be scored, before anything is loaded.

    Raises:
        OptionError: If there is none, one is named twice, or one has no labels to rank.
    """
    names = [task.name for task in tasks]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise OptionError(f"--data names task '{twice}' twice", code="task-given-twice")
    if options.score == "labels" and (open_ended := next((t.name for t in tasks if not t.labels), None)):
        raise OptionError(
            f"task '{open_ended}' has no label set to rank; use --score generate", code="task-has-no-labels"
        )
    if not tasks:
        raise OptionError("no task to evaluate: pass --data", code="option-missing")
