"""Carry out a plan: prepare, train, write the adapter folder (layer L3)."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from clora_cli.base.durable import make_folder
from clora_cli.base.errors import ArtifactError, CloraError, OptionError, ReplacedError
from clora_cli.base.files import differences, discard, read_json, to_json, write_text, writing
from clora_cli.base.progress import Progress, Silent
from clora_cli.model.places import places_of
from clora_cli.processes.locks import NO_PATIENCE, Patience, locked
from clora_cli.processes.meeting import agree, launched, wait_for_all
from clora_cli.processes.ranks import is_main_process
from clora_cli.processes.spots import inside
from clora_cli.store.adapter_folder import AdapterFolder
from clora_cli.store.adapter_writing import write_adapter
from clora_cli.store.card import model_card
from clora_cli.store.manifest import Manifest
from clora_cli.store.package import changed
from clora_cli.training.checkpoints import has_checkpoints, last_checkpoint, start_anew
from clora_cli.training.facts import begun, facts
from clora_cli.training.plan import Plan, make_plan
from clora_cli.training.result import Result

__all__ = ["train_task"]

_PLAN = "plan.json"


def train_task(
    plan: Plan,
    *,
    resume: bool = False,
    force: bool = False,
    argv: Sequence[str] = (),
    progress: Progress | None = None,
    patience: Patience = NO_PATIENCE,
) -> tuple[AdapterFolder, bool]:
    """Carry out a plan.

    Args:
        plan: From ``make_plan``; made again if the package changed before this process had it for itself.
        resume: Continue an unfinished run of this plan, if there is one.
        force: Replace a finished adapter or discard an unfinished run.
        argv: The command line, for the manifest.
        progress: Who to tell.
        patience: What to do if another process writes to the package.

    Returns:
        The adapter folder, and whether it was trained now (False: it was there already, made by the same plan).

    Raises:
        CloraError: As the plan's checks, or when training fails; an earlier adapter stays untouched.
        BusyError: If another process writes to the package, and goes on to.
        InterruptedRunError: After SIGINT, SIGTERM or SIGHUP; a checkpoint is kept for ``resume``.
    """
    progress = progress or Silent()
    finished = None if force else plan.finished()
    agree(lambda: facts(plan))
    if finished is not None:
        _forget(plan)
        return finished, False
    with _alone(plan, patience, progress) as current:
        if current is not plan and not force and (finished := current.finished()) is not None:
            return finished, False
        checkpoint = last_checkpoint(current.work, progress) if resume and not force else None
        agree(lambda: begun(current, checkpoint))
        return _carry_out(current, checkpoint, resume, force, argv, progress), True


def _carry_out(
    plan: Plan, checkpoint: Path | None, resume: bool, force: bool, argv: Sequence[str], progress: Progress
) -> AdapterFolder:
    if force and plan.dependents:
        names = ", ".join(member.task for member in plan.dependents)
        progress.warn(f"{names} stand on the {plan.out} that is being replaced; train them again too")
    if is_main_process():
        _prepare(plan, resume, force)
    wait_for_all()  # until unused checkpoints are removed
    from clora_cli.training.fit import fit
    from clora_cli.training.untrained import zeros

    try:
        result = fit(plan, checkpoint, progress) if plan.method.lead.trains else zeros(plan)
    except BaseException:
        if is_main_process() and not has_checkpoints(plan.work):
            discard(plan.work)  # without a checkpoint it must not block the next run
        raise
    return _finish(plan, result, argv)


def _finish(plan: Plan, result: Result, argv: Sequence[str]) -> AdapterFolder:
    if is_main_process():
        folder = _write(plan, result, argv)
        discard(plan.work)
    else:  # as that is, which this process may have no disk to read it from
        folder = AdapterFolder(plan.out, _plain(result.config), Manifest(plan.manifest(argv, {})))
    wait_for_all()  # until the adapter is complete
    if not is_main_process():
        discard(plan.work)  # on a disk of its own
    return folder


@contextlib.contextmanager
def _alone(plan: Plan, patience: Patience, progress: Progress) -> Iterator[Plan]:
    """Lock the package, and give the plan for its present contents; the first process does so for all."""
    if not is_main_process():
        yield plan
        return
    with writing(plan.out):
        make_folder(plan.out.parent)
    with locked([inside(plan.out.parent)], patience=patience, progress=progress):
        if not changed(plan.options.package, plan.read):
            yield plan
        elif launched():
            raise ReplacedError(
                f"package {plan.options.package} changed after the processes had read it; start again",
                code="replaced-while-read",
            )
        else:
            yield make_plan(plan.options)


def _forget(plan: Plan) -> None:
    """Remove the checkpoints of a finished run that was killed before it removed them."""
    recorded = plan.work / _PLAN
    if not (is_main_process() and recorded.is_file()):
        return
    with contextlib.suppress(CloraError), locked([inside(plan.out.parent)]):  # if locked, a later run does it
        if not differences(plan.recipe(), read_json(recorded, "plan of the finished run")):
            discard(plan.work)


def _prepare(plan: Plan, resume: bool, force: bool) -> None:
    """Check what an earlier run left, and make room for this one; the caller holds the lock."""
    work, recorded = plan.work, plan.work / _PLAN
    if has_checkpoints(work) and not force:
        if not resume:
            raise OptionError(
                f"{work} holds an unfinished run; continue it with --resume or discard it with --force",
                code="unfinished-run-exists",
            )
        if changes := differences(plan.recipe(), _recorded(recorded)):
            raise OptionError(
                f"{work} holds a run with other options ({changes}); give those, or discard it with --force",
                code="unfinished-run-differs",
            )
        return
    discard(work)
    write_text(recorded, to_json(plan.recipe()))


def _recorded(path: Path) -> dict[str, Any]:
    try:
        return read_json(path, "plan of the unfinished run")
    except ArtifactError as error:
        raise ArtifactError(
            f"{path} is missing or damaged; {start_anew(path.parent)}", code="run-plan-damaged"
        ) from error


def _write(plan: Plan, result: Result, argv: Sequence[str]) -> AdapterFolder:
    records = [record for record in result.history if "loss" in record]
    final = records[-1] if records else {}
    last = {key: value for key, value in final.items() if key == "loss" or key.startswith("penalty/")}
    scores = {"last_step": last, **result.report}
    manifest = plan.manifest(argv, {name: score for name, score in scores.items() if score})
    manifest |= {"head": list(result.classes)} if result.classes else {}
    log = "".join(json.dumps(_finite(record), sort_keys=True) + "\n" for record in records)
    texts = {"log.jsonl": log, "README.md": model_card(Manifest(manifest))}
    config = _plain(result.config)
    kept, places = (result.state, result.distribution), places_of(plan.reference)
    return write_adapter(plan.out, result.tensors, config, manifest, texts, *kept, places)


def _finite(record: Mapping[str, Any]) -> dict[str, Any]:
    # A first step that overflows under a loss scale has no gradient norm; JSON knows no infinity.
    odd = {key for key, value in record.items() if isinstance(value, float) and not math.isfinite(value)}
    return {key: None if key in odd else value for key, value in record.items()}


def _plain(value: Any) -> Any:
    # PEFT's configuration holds sets and enumerations; sorted lists and strings make equal runs write equal bytes.
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, (set, frozenset)):
        return sorted(_plain(entry) for entry in value)
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    return getattr(value, "value", value)
