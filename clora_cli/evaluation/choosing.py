"""An encoder's answers: classes of the adapters that act (layer L3)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

from clora_cli.base.errors import CloraError, MismatchError, OptionError, translated
from clora_cli.base.progress import Progress
from clora_cli.data import Task
from clora_cli.evaluation.combine import Combination
from clora_cli.evaluation.prompts import Before, Prompts
from clora_cli.model.backbone import Backbone
from clora_cli.model.classifier import Classifier
from clora_cli.model.head_layers import check_whole
from clora_cli.model.output_layer import check_numbers
from clora_cli.options import EvalOptions
from clora_cli.store.adapter_folder import AdapterFolder
from clora_cli.store.heads import Head, has_head, head_of, united

__all__ = ["Classified", "choosable", "classes_for", "classify"]


class Classified:
    """Gives an encoder the classes of the adapters that act, however these are combined.

    Args:
        backbone: The encoder.
        members: All adapters.
        inner: Puts them into it.
    """

    def __init__(self, backbone: Backbone, members: Sequence[AdapterFolder], inner: Combination) -> None:
        self._classifier, self._inner = Classifier(backbone), inner
        self._heads: Mapping[Path, Head] = {member.path: head_of(member) for member in members if has_head(member)}

    def use(self, adapters: Sequence[AdapterFolder], prompts: Prompts) -> tuple[Prompts, Before | None]:
        """Make these adapters act, and let the model choose among their classes."""
        prompts, before = self._inner.use(adapters, prompts)
        if not (heads := [self._heads[adapter.path] for adapter in adapters if adapter.path in self._heads]):
            return dataclasses.replace(prompts, classes=()), before
        head = united(heads)
        self._classifier.put(head)
        return dataclasses.replace(prompts, classes=head.classes), before


def choosable(
    members: Sequence[AdapterFolder], tasks: Sequence[Task], options: EvalOptions, progress: Progress
) -> list[Task]:
    """Return the tasks for which some adapter has classes, before an encoder is loaded.

    Args:
        members: All adapters.
        tasks: What is to be scored.
        options: How.
        progress: Told of tasks that are left out.

    Raises:
        MismatchError: If there is none, or an adapter is no plain LoRA.
        OptionError: If the encoder is to be divided or quantised, or to tell what is left of general ability.
    """
    check_whole(options.shard, options.quantize)
    if options.retention:
        raise OptionError(
            "--retention does not go with an encoder, which knows no task before it is trained; leave it out",
            code="option-not-for-encoders",
        )
    for member in members:
        if not (has_head(member) or member.is_dense or member.is_prompt):
            member.check_plain()
    classes = [one for member in members if has_head(member) for one in head_of(member).classes]
    known = [task for task in tasks if classes_for(task, classes)]
    if not known:
        raise _unknown(tasks[0])
    for task in tasks:
        if task not in known:
            progress.note(f"note: {task.name} is left out: no adapter has classes of it")
    return known


def classes_for(task: Task, classes: Sequence[tuple[str, str]]) -> list[int]:
    """Return the numbers of the classes that are a task's own; where none is, of those that other tasks call as it calls its own."""
    own = [row for row, (name, label) in enumerate(classes) if name == task.name and label in task.labels]
    return own or [row for row, (_, label) in enumerate(classes) if label in task.labels]


@torch.inference_mode()
def classify(
    prompts: Prompts, task: Task, done: Callable[[int], None], before: Before | None = None, *, own: bool = False
) -> list[str]:
    """Give every prompt the label of the likeliest class.

    Args:
        prompts: The prompts of one task, with the classes of the adapters that act.
        task: The task.
        done: Told the number of rows after each batch.
        before: Called before each batch.
        own: Choose among the task's own classes; else among all that there are, whatever task they are of.

    Returns:
        One label a row, in the order of the rows; the first of equals.

    Raises:
        MismatchError: If no class is one of the task's.
        CloraError: The model fails, or computes values that are no numbers.
    """
    backbone, known = prompts.backbone, classes_for(task, prompts.classes)
    if not known:
        raise _unknown(task)
    among = known if own else list(range(len(prompts.classes)))
    chosen = [""] * len(prompts.ids)
    for rows, batch in prompts.batches():
        if before is not None:
            before(rows, batch["attention_mask"])
        with translated(
            f"{backbone.tokens.model} cannot choose among classes", CloraError, code="classification-failed"
        ):
            logits = backbone.model(**batch).logits[:, among]
        check_numbers(logits, backbone.tokens.model)
        for row, index in zip(rows, logits.argmax(dim=1).tolist(), strict=True):
            chosen[row] = prompts.classes[among[index]][1]
        done(len(rows))
    return chosen


def _unknown(task: Task) -> MismatchError:
    return MismatchError(
        f"no adapter that acts has a class of task '{task.name}'; train it first, let its adapter act by another --combine, or give other "
        "--data",
        code="classes-unknown",
    )
