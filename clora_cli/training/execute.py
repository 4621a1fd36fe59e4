"""Carry out a plan: prepare, train, write the adapter folder (layer L3)."""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clora_cli.base.durable import make_folder
from clora_cli.base.errors import ArtifactError, CloraError, InterruptedRunError, OptionError, ReplacedError, translated
from clora_cli.base.files import differences, discard, read_json, to_json, write_text, writing
from clora_cli.base.progress import Progress, Silent
from clora_cli.model.places import places_of
from clora_cli.processes.locks import NO_PATIENCE, Patience, locked
from clora_cli.processes.meeting import agree, launched, wait_for_all
from clora_cli.processes.ranks import is_main_process
from clora_cli.processes.spots import inside
from clora_cli.store.adapter_folder import AdapterFolder, write_adapter
from clora_cli.store.card import model_card
from clora_cli.store.manifest import Manifest
from clora_cli.store.package import changed
from clora_cli.training.checkpoints import has_checkpoints, last_checkpoint, start_anew
from clora_cli.training.facts import begun, facts
from clora_cli.training.plan import Plan, make_plan

if TYPE_CHECKING:
    from torch import Tensor

    from clora_cli.store.distribution import Distribution
    from clora_cli.training.build import Built
    from clora_cli.training.loop import PenaltyTrainer
    from clora_cli.training.penalties import Penalties

__all__ = ["train_task"]

_PLAN = "plan.json"


@dataclass(frozen=True, eq=False)
class _Result:
    """What training leaves behind.

    Attributes:
        history: The Trainer's log.
        tensors: PEFT's tensor names to LoRA factors.
        config: PEFT's configuration.
        state: What the methods keep for later.
        relations: By method, its last relations to earlier adapters.
        subspace: Which share of the LoRA the adapter owns, if it shares one.
        distribution: The new adapter's feature distribution, if the method routes.
    """

    history: list[dict[str, Any]]
    tensors: Mapping[str, Tensor]
    config: Mapping[str, Any]
    state: Mapping[str, Tensor]
    relations: Mapping[str, Sequence[float]]
    subspace: Mapping[str, Any]
    distribution: Distribution | None


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
    wait_for_all()  # what is not continued from is gone
    try:
        result = _train(plan, checkpoint, progress) if plan.method.lead.trains else _write_zeros(plan)
    except BaseException:
        if is_main_process() and not has_checkpoints(plan.work):
            discard(plan.work)  # nothing to continue from: it must not block the next try
        raise
    return _finish(plan, result, argv)


def _finish(plan: Plan, result: _Result, argv: Sequence[str]) -> AdapterFolder:
    if is_main_process():
        folder = _write(plan, result, argv)
        discard(plan.work)
    else:  # as that is, which this process may have no disk to read it from
        folder = AdapterFolder(plan.out, _plain(result.config), Manifest(plan.manifest(argv, {})))
    wait_for_all()  # what is returned is whole
    if not is_main_process():
        discard(plan.work)  # on a disk of its own
    return folder


@contextlib.contextmanager
def _alone(plan: Plan, patience: Patience, progress: Progress) -> Iterator[Plan]:
    """Keep other writers off the package, and give the plan for what is in it now; the first process does that for all."""
    if not is_main_process():
        yield plan
        return
    with writing(plan.out):
        make_folder(plan.out.parent)
    with locked([inside(plan.out.parent)], patience=patience, progress=progress):
        if not changed(plan.options.package, plan.read):
            yield plan
        elif launched():
            raise ReplacedError(f"package {plan.options.package} changed after the processes had read it; start again")
        else:
            yield make_plan(plan.options)


def _forget(plan: Plan) -> None:
    """Remove the checkpoints of a run whose adapter is there: it was killed before it could."""
    recorded = plan.work / _PLAN
    if not (is_main_process() and recorded.is_file()):
        return
    with contextlib.suppress(CloraError), locked([inside(plan.out.parent)]):  # another time, if not now
        if not differences(plan.recipe(), read_json(recorded, "plan of the finished run")):
            discard(plan.work)


def _prepare(plan: Plan, resume: bool, force: bool) -> None:
    """Check what an earlier run left, and make room for this one; others are kept off meanwhile."""
    work, recorded = plan.work, plan.work / _PLAN
    if has_checkpoints(work) and not force:
        if not resume:
            raise OptionError(f"{work} holds an unfinished run; continue it with --resume or discard it with --force")
        if changes := differences(plan.recipe(), _recorded(recorded)):
            raise OptionError(
                f"{work} holds a run with other options ({changes}); give those, or discard it with --force"
            )
        return
    discard(work)
    write_text(recorded, to_json(plan.recipe()))


def _recorded(path: Path) -> dict[str, Any]:
    try:
        return read_json(path, "plan of the unfinished run")
    except ArtifactError as error:
        raise ArtifactError(f"{path} is missing or damaged; {start_anew(path.parent)}") from error


def _train(plan: Plan, checkpoint: Path | None, progress: Progress) -> _Result:
    from peft import get_peft_model_state_dict

    from clora_cli.training.build import ADAPTER, build, confine
    from clora_cli.training.callbacks import Interruption, Watch, flushed_denormals
    from clora_cli.training.probe import RunProbe

    built = build(plan, progress)
    items = _items(plan, built)
    for remark in _remarks(plan, built, items):
        progress.note(f"note: {remark}")
    probe = RunProbe(plan, built, items[: len(plan.rows)], progress)
    penalties = _penalties(plan, built, progress)
    confinement = confine(plan, built, progress)
    for kept in (penalties, confinement):
        if checkpoint is not None and kept is not None:
            kept.load(checkpoint)
    began = time.monotonic()
    with (
        flushed_denormals(),
        Interruption() as interruption,
        progress.track(f"train {plan.task.name}", plan.steps) as advance,
    ):
        parts = {"penalties": penalties, "confinement": confinement, "probe": probe}
        trainer = _trainer(plan, built, items, **parts, **_comparisons(plan, built))
        if trainer.sharded:
            _tell_of_no_checkpoints(checkpoint, progress)
        trainer.add_callback(Watch(advance, interruption))
        with translated(f"training base model '{plan.reference.id}' failed"):
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        if interruption.wanted and trainer.state.global_step < plan.steps:
            raise InterruptedRunError(
                f"interrupted at step {trainer.state.global_step} of {plan.steps}; continue with --resume"
            )
    tensors = get_peft_model_state_dict(built.model, save_embedding_layers=False)  # factors alone, no base weights
    if sharded := next((key for key, tensor in tensors.items() if tensor.ndim != 2 or not tensor.numel()), None):
        raise OptionError(
            f"'{sharded}' is not whole on this process: weights are sharded (ZeRO-3, FSDP); train under DDP or ZeRO-2"
        )
    state = confinement.state() if confinement else {}
    for method in plan.method.parts.values():
        state |= method.keep(probe)
    if probe.seconds:
        share = probe.seconds / max(time.monotonic() - began - probe.seconds, 1e-9)
        progress.note(f"attribution took {probe.seconds:.1f} s, {share:.1%} of the training's own time")
    return _Result(
        history=trainer.state.log_history,
        tensors=tensors,
        config=_portable(built.model.peft_config[ADAPTER].to_dict(), plan),
        state=state,
        relations=penalties.relations() if penalties else {},
        subspace=confinement.recorded() if confinement else {},
        distribution=built.gates.distribution if built.gates else None,
    )


def _tell_of_no_checkpoints(checkpoint: Path | None, progress: Progress) -> None:
    if checkpoint is not None:
        raise OptionError(
            f"{checkpoint} is not sharded: continue without DeepSpeed and FSDP, or start anew with --force"
        )
    progress.warn("no checkpoints are kept under DeepSpeed and FSDP: an interrupted run starts anew")


def _write_zeros(plan: Plan) -> _Result:
    from clora_cli.training.untrained import zeros

    tensors, config = zeros(plan)
    return _Result([], tensors, _portable(config, plan), {}, {}, {}, None)


def _penalties(plan: Plan, built: Built, progress: Progress) -> Penalties | None:
    from clora_cli.training.penalties import Penalties, recall

    if not (methods := plan.method.penalised):
        return None
    names = {name for wanted in plan.method.recalling.values() for name in wanted}
    recalled = recall(names, built.past[-1] if built.past else None)
    penalties = Penalties(methods, built.trainable, built.bank, recalled)
    for name in penalties.inactive():
        known = built.bank.sites or recalled
        reason = "no earlier adapter shares a layer with the new one" if known else "there is no earlier adapter"
        progress.warn(f"{name}: its penalty is inactive in this run: {reason}")
    return penalties


def _comparisons(plan: Plan, built: Built) -> dict[str, Any]:
    """Return what compares with the model before, and what filters gradients, where the method has either."""
    from clora_cli.training.filtering import GradientFilter
    from clora_cli.training.previous import Previous

    found: dict[str, Any] = {}
    if plan.method.comparing and built.past:
        found["previous"] = Previous(built, built.past[-1].factors(), plan.method.comparing)
    if plan.method.filtering:
        found["filtering"] = GradientFilter(built, plan.method.filtering, first=not plan.past)
    return found


def _items(plan: Plan, built: Built) -> list[dict[str, list[int]]]:
    from clora_cli.data import encode, uses_chat

    options, backbone = plan.options, built.backbone
    return [
        encode(
            row,
            backbone.tokens,
            kind=backbone.prompt_kind,
            max_length=options.max_length,
            max_answer_length=options.max_answer_length,
            chat=uses_chat(rows.task, backbone.tokens),
        )
        for rows in (plan.drawn, *plan.memory)
        for row in rows.examples
    ]


def _remarks(plan: Plan, built: Built, items: list[dict[str, list[int]]]) -> list[str]:
    tokens = built.backbone.tokens
    found = tokens.remarks(plan.options.max_length, max(len(item["input_ids"]) for item in items))
    return [*found, tokens.disagreement] if tokens.disagreement else found


def _trainer(plan: Plan, built: Built, items: list[dict[str, list[int]]], **parts: Any) -> PenaltyTrainer:
    from transformers import PrinterCallback

    from clora_cli.data import Collator
    from clora_cli.training.arguments import training_arguments
    from clora_cli.training.loop import PenaltyTrainer, Rows

    backbone = built.backbone
    trainer = PenaltyTrainer(
        model=built.model,
        args=training_arguments(plan, backbone),
        train_dataset=Rows(items, plan.order),
        data_collator=Collator(backbone.tokens),
        gates=built.gates,
        past=[member.task for member in plan.past],
        decoder_inputs=backbone.tokens.decoder_inputs if backbone.kind == "seq2seq" else None,
        **parts,
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def _write(plan: Plan, result: _Result, argv: Sequence[str]) -> AdapterFolder:
    records = [record for record in result.history if "loss" in record]
    final = records[-1] if records else {}
    last = {key: value for key, value in final.items() if key == "loss" or key.startswith("penalty/")}
    tasks = [member.task for member in plan.past]
    relations = {name: dict(zip(tasks, numbers, strict=True)) for name, numbers in result.relations.items()}
    scores = {"last_step": last, "relations": relations, "subspace": result.subspace}
    manifest = plan.manifest(argv, {name: score for name, score in scores.items() if score})
    log = "".join(json.dumps(_finite(record), sort_keys=True) + "\n" for record in records)
    texts = {"log.jsonl": log, "README.md": model_card(Manifest(manifest))}
    config = _plain(result.config)
    kept, places = (result.state, result.distribution), places_of(plan.reference)
    return write_adapter(plan.out, result.tensors, config, manifest, texts, *kept, places)


def _finite(record: dict[str, Any]) -> dict[str, Any]:
    # A first step that overflows under a loss scale has no gradient norm; JSON knows no infinity.
    odd = {key for key, value in record.items() if isinstance(value, float) and not math.isfinite(value)}
    return {key: None if key in odd else value for key, value in record.items()}


def _portable(config: dict[str, Any], plan: Plan) -> dict[str, Any]:
    # PEFT puts the local path of the base model into the configuration; the id is what other machines know.
    return config | {"inference_mode": True, "base_model_name_or_path": plan.reference.id}


def _plain(value: Any) -> Any:
    # PEFT's configuration holds sets and enumerations; sorted lists and strings make equal runs write equal bytes.
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, (set, frozenset)):
        return sorted(_plain(entry) for entry in value)
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    return getattr(value, "value", value)
