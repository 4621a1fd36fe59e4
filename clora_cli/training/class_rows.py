"""The classes of a run whose base model is an encoder (layer L3): which rows of the output layer it has, and which it trains.

The softmax is over the classes of those tasks whose rows the run reads: its own, and those of a memory. Earlier tasks' rows of the
output layer stay as they are, but where their rows of data are trained on again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from clora_cli.base.errors import MismatchError
from clora_cli.data import Example, Task, encode_prompt, uses_chat
from clora_cli.model.backbone import Backbone
from clora_cli.model.classifier import Classifier
from clora_cli.options import TrainOptions
from clora_cli.store.heads import Head, has_head, head_of, united
from clora_cli.training.plan import Plan

__all__ = ["Classes"]

_SPREAD = 0.02  # of the new rows' first numbers, as Transformers draws a head's


@dataclass(frozen=True, eq=False)
class Classes:
    """The output layer of a run.

    Attributes:
        classifier: Where it stands in the model.
        start: The head as the run begins.
        kept: The heads of earlier adapters that the new one is to have beside what it trains; none where they act beside it.
        trained: The tasks whose rows of the output layer are trained.
        layer: The output layer.
        sees: Whether the rows are images.
    """

    classifier: Classifier
    start: Head
    kept: Sequence[Head]
    trained: Sequence[str]
    layer: nn.Linear
    sees: bool

    @classmethod
    def of(cls, plan: Plan, backbone: Backbone) -> Classes:
        """Give a model the output layer of a run.

        Raises:
            MismatchError: If an earlier task has no head, or one of another model.
        """
        classifier = Classifier(backbone)
        earlier = [head_of(member) for member in plan.past if has_head(member)]
        known = united(earlier) if earlier else None
        again = list(dict.fromkeys(rows.task.name for rows in plan.memory))
        if missing := [task for task in again if known is None or task not in known.tasks]:
            raise MismatchError(
                f"no earlier adapter has the classes of '{missing[0]}', whose rows are read again; train that task first",
                code="classes-unknown",
            )
        new = _new(plan, classifier, known)
        start = united([known.of(again), new]) if known and again else new
        layer = classifier.put(start, torch.float32).requires_grad_(True)
        trained = [plan.task.name, *(again if plan.remembered else ())]
        _hold(layer, torch.tensor([task in trained for task, _ in start.classes]))
        kept = earlier if plan.method.lead.combine == "last" else ()
        return cls(classifier, start, kept, trained, layer, plan.reference.sees)

    def item(self, task: Task, row: Example, backbone: Backbone, options: TrainOptions) -> dict[str, list[int]]:
        """Return a training item: ``input_ids``, and as the one of ``labels`` the right class's number."""
        chat = uses_chat(task, backbone.tokens)
        ids = encode_prompt(row, backbone.tokens, kind=backbone.prompt_kind, max_length=options.max_length, chat=chat)
        return {"input_ids": ids, "labels": [self.start.classes.index((task.name, row.references[0]))]}

    def finished(self) -> Head:
        """Return the head of the finished adapter."""
        weight, bias = (own.detach().float().cpu() for own in (self.layer.weight, self.layer.bias))
        whole = Head(self.start.classes, weight, bias, self.start.module, self.start.inner)
        return united([*self.kept, whole.of(self.trained)])

    def beside(self, tensors: dict[str, Tensor], config: dict[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return a LoRA's tensors and PEFT's configuration of it with the head beside it."""
        task_type = None if self.sees else "SEQ_CLS"  # PEFT has no word for images, and calls models of texts otherwise
        held = {"task_type": task_type, "modules_to_save": list(self.classifier.modules)}
        return {**tensors, **self.finished().tensors()}, {**config, **held}


def _new(plan: Plan, classifier: Classifier, known: Head | None) -> Head:
    """Return the first rows of the task's own classes, by the run's seed."""
    task, width = plan.task, classifier.width()
    weight = torch.randn(len(task.labels), width, generator=torch.Generator().manual_seed(plan.seed)) * _SPREAD
    inner = known.inner if known else classifier.inner
    return Head(
        tuple((task.name, label) for label in task.labels), weight, torch.zeros(len(weight)), classifier.module, inner
    )


def _hold(layer: nn.Linear, trained: Tensor) -> None:
    """Let the other rows have no gradient, and stay what they are whatever else an optimizer does, such as weight decay."""
    if bool(trained.all()):
        return
    mask = trained.float().to(layer.weight.device)
    layer.weight.register_hook(lambda slope: slope * mask[:, None])  # type: ignore[no-untyped-call]
    layer.bias.register_hook(lambda slope: slope * mask)  # type: ignore[no-untyped-call]
    held = ~trained.to(layer.weight.device)
    weight, bias = layer.weight.detach()[held], layer.bias.detach()[held]  # copies

    def restore(layer: Any, _: Any) -> None:
        layer.weight.data[held], layer.bias.data[held] = weight, bias

    layer.register_forward_pre_hook(restore)
