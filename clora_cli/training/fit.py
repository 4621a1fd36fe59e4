"""The training itself: from a plan to what it leaves behind (layer L3)."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

from transformers import PrinterCallback

from clora_cli.base.errors import InterruptedRunError, OptionError, translated
from clora_cli.base.progress import Progress
from clora_cli.data import Collator, encode, uses_chat
from clora_cli.model.backbone import pick_device
from clora_cli.model.seeing import Seen
from clora_cli.processes.meeting import together
from clora_cli.training.arguments import training_arguments
from clora_cli.training.build import Built, build
from clora_cli.training.callbacks import Interruption, Watch, flushed_denormals
from clora_cli.training.loop import MethodTrainer, Rows
from clora_cli.training.moments import Moments
from clora_cli.training.penalties import Penalties, recall
from clora_cli.training.plan import Plan
from clora_cli.training.rehearsal import rehearsed, told
from clora_cli.training.result import Result, portable
from clora_cli.training.run import TrainingRun
from clora_cli.training.sparing import Sparing

__all__ = ["encoded_rows", "fit", "methods_of", "trainer_of"]

Items = list[dict[str, list[int]]]


def fit(plan: Plan, checkpoint: Path | None, progress: Progress) -> Result:
    """Train.

    Args:
        plan: What.
        checkpoint: Where to continue from, if anywhere.
        progress: Who to tell.

    Raises:
        CloraError: If it fails.
        InterruptedRunError: After SIGINT, SIGTERM or SIGHUP.
    """
    with together(pick_device(plan.options.device)) if plan.options.shard else contextlib.nullcontext():
        return _fitted(plan, checkpoint, progress)


def _fitted(plan: Plan, checkpoint: Path | None, progress: Progress) -> Result:
    built = build(plan, progress)
    plan = rehearsed(plan, built, progress)
    items = encoded_rows(plan, built)
    for remark in _remarks(plan, built, items):
        progress.note(f"note: {remark}")
    moments = methods_of(plan, built, items, progress)
    moments.begin(checkpoint, progress)
    trainer = trainer_of(plan, built, items, moments)
    if trainer.divides_state:
        _tell_of_no_checkpoints(checkpoint, progress)
    began = time.monotonic()
    _run(plan, trainer, checkpoint, progress)
    state = moments.finish()
    tensors, config = built.written(plan)
    if seconds := moments.seconds:
        share = seconds / max(time.monotonic() - began - seconds, 1e-9)
        progress.note(f"attribution took {seconds:.1f} s, {share:.1%} of the training's own time")
    report = {**moments.report(), **told(plan)}
    classes = built.classes.finished().recorded() if built.classes else ()
    return Result(
        tensors, portable(config, plan), trainer.state.log_history, state, report, moments.distribution, classes
    )


def methods_of(plan: Plan, built: Built, items: Items, progress: Progress | None = None) -> Moments:
    """Return the run's methods with what each of them sees."""
    runs = {name: TrainingRun(name, plan, built, items, progress) for name in plan.method.acting}
    names = {name for wanted in plan.method.recalling.values() for name in wanted}
    recalled = recall(names, built.past[-1] if built.past else None)
    return Moments(
        plan.method,
        runs,
        lambda: Penalties(plan.method.at("penalty"), built.trainable, built.bank, recalled),
        built.mixtures,
        built.promptings,
    )


def encoded_rows(plan: Plan, built: Built) -> Items:
    """Return the encoded training rows: the task's own, then those of the memory."""
    options, backbone = plan.options, built.backbone
    if built.classes:
        return [
            built.classes.item(rows.task, row, backbone, options)
            for rows in (plan.drawn, *plan.memory)
            for row in rows.examples
        ]
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


def trainer_of(plan: Plan, built: Built, items: Items, moments: Moments) -> MethodTrainer:
    """Return the Trainer of a run.

    Raises:
        OptionError: If it cannot train in the way that the launcher is configured for.
    """
    backbone = built.backbone
    try:
        trainer = MethodTrainer(
            moments=moments,
            sparing=Sparing(built, plan.options, lambda: moments.row_by_row),
            model=built.model,
            args=training_arguments(plan, backbone),
            train_dataset=Rows(items, plan.order, _varied(plan, backbone.tokens.seen)),
            data_collator=Collator(backbone.tokens),
            decoder_inputs=backbone.tokens.decoder_inputs if backbone.kind == "seq2seq" else None,
            shift=backbone.kind == "causal",
        )
    except (ImportError, ValueError) as error:  # no DeepSpeed, or a configuration for other devices
        raise OptionError(
            f"Accelerate cannot train as the launcher configures it (ACCELERATE_… variables): {' '.join(str(error).split())}",
            code="engine-not-available",
        ) from error
    trainer.remove_callback(PrinterCallback)
    return trainer


def _varied(plan: Plan, seen: Seen | None) -> Seen | None:
    """Let a run's images vary as its options say."""
    if seen is not None:
        seen.vary(plan.options.augment, plan.seed)
    return seen


def _run(plan: Plan, trainer: MethodTrainer, checkpoint: Path | None, progress: Progress) -> None:
    with (
        flushed_denormals(),
        Interruption() as interruption,
        progress.track(f"train {plan.task.name}", plan.steps) as advance,
    ):
        trainer.add_callback(Watch(advance, interruption))
        with translated(f"training base model '{plan.reference.id}' failed", code="training-failed"):
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        if interruption.wanted and trainer.state.global_step < plan.steps:
            raise InterruptedRunError(
                f"interrupted at step {trainer.state.global_step} of {plan.steps}; continue with --resume",
                code="interrupted",
            )


def _tell_of_no_checkpoints(checkpoint: Path | None, progress: Progress) -> None:
    if checkpoint is not None:
        raise OptionError(
            f"{checkpoint} is whole, and DeepSpeed divides what it holds: continue without it, or start anew with --force",
            code="checkpoint-not-divided",
        )
    progress.warn("no checkpoints are kept under DeepSpeed: an interrupted run starts anew")


def _remarks(plan: Plan, built: Built, items: Items) -> list[str]:
    tokens = built.backbone.tokens
    found = tokens.remarks(plan.options.max_length, max(len(item["input_ids"]) for item in items))
    return [*found, tokens.disagreement] if tokens.disagreement else found
