"""Whether a run can train an encoder (layer L3), told before anything is loaded."""

from __future__ import annotations

from collections.abc import Sequence

from clora_cli.base.errors import DataError, MismatchError, OptionError
from clora_cli.data import Rows, Task
from clora_cli.model.backbone import load_skeleton
from clora_cli.model.base_model import ModelReference
from clora_cli.model.head_layers import check_classifier, check_whole
from clora_cli.options import TrainOptions
from clora_cli.training.composition import Composition

__all__ = ["check_augment", "check_classes", "check_encoder", "told_of_one_class"]


def check_encoder(reference: ModelReference, method: Composition, options: TrainOptions) -> None:
    """Check that a method can train an encoder, before anything is loaded.

    Raises:
        MismatchError: If Transformers has no classification head for it, or the method needs a model that writes.
        OptionError: If the encoder is to be divided or quantised.
    """
    check_classifier(load_skeleton(reference), reference.id)
    unfit = [name for name, part in method.parts.items() if not part.takes_classes or part.virtual_tokens()]
    if unfit:
        raise MismatchError(
            f"--method {unfit[0]} needs a base model that writes its answers, and '{reference.id}' is an encoder, which chooses among "
            "classes; choose another method",
            code="method-not-for-encoders",
        )
    check_whole(options.shard, options.quantize)


def check_augment(reference: ModelReference, options: TrainOptions) -> None:
    """Refuse to vary rows that are texts.

    Raises:
        OptionError: If it is asked for.
    """
    if options.augment != "none" and not reference.sees:
        raise OptionError(
            f"--augment {options.augment} varies images, and base model '{reference.id}' reads texts; leave it out",
            code="augment-needs-images",
        )


def check_classes(drawn: Rows) -> None:
    """Check that a task's answers are classes.

    Raises:
        DataError: If it has no label set, or a row has another answer.
    """
    task = drawn.task
    if not task.labels:
        raise DataError(
            f"task '{task.name}' ({task.source}) has no label set, and an encoder chooses among labels; give a task with one",
            code="task-has-no-classes",
        )
    if odd := next((row.references[0] for row in drawn.examples if row.references[0] not in task.labels), None):
        raise DataError(
            f"task '{task.name}' ({task.source}) has a row whose answer '{odd[:60]}' is none of its labels; remove it, or mend it",
            code="answer-not-a-label",
        )


def told_of_one_class(task: Task, memory: Sequence[Rows]) -> list[str]:
    """Return a note on a task whose only class is likeliest whatever is trained; nothing where others compete with it."""
    if len(task.labels) > 1 or memory:
        return []
    return [
        "it has one class alone, which no other competes with: nothing can be learned; give it other classes, or read earlier tasks' "
        "rows again (--method replay)"
    ]
