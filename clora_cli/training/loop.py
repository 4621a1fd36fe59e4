"""Transformers' Trainer with what methods add to a step, and an order of rows fixed in advance (layer L3)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.lr_scheduler import LambdaLR

from clora_cli.base.errors import OptionError
from clora_cli.methods import Batch
from clora_cli.model.seeing import Seen
from clora_cli.training.answer_logits import answer_logits
from clora_cli.training.callbacks import AfterSteps
from clora_cli.training.moments import Moments
from clora_cli.training.resuming import ResumableTrainer
from clora_cli.training.sparing import Sparing

__all__ = ["MethodTrainer", "Rows", "answer_loss"]


class Rows(torch.utils.data.Dataset[dict[str, Any]]):
    """Encoded rows in the order of a whole run; the Trainer reads them as one epoch, in sequence.

    Args:
        items: The rows.
        order: Their numbers in the order of the run.
        seen: The images that the rows are; None of texts.
    """

    def __init__(self, items: Sequence[dict[str, list[int]]], order: Sequence[int], seen: Seen | None = None) -> None:
        self._items, self._order, self._seen = items, order, seen

    def __len__(self) -> int:
        """Return the number of rows over all epochs."""
        return len(self._order)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return one encoded row and its number; of an image the view that this place in the order has."""
        row = self._order[index]
        item: dict[str, Any] = {**self._items[row], "row": row}
        if self._seen is not None:
            item["input_ids"] = [self._seen.view(number, index) for number in item["input_ids"]]
        return item


def answer_loss(
    shift: bool, term: Callable[[Tensor, Tensor, Tensor | int], Tensor | None] | None = None, *, learned: bool = True
) -> Callable[..., Tensor]:
    """Return the loss: cross-entropy summed over answer tokens, divided by their number in the whole optimizer step.

    Dividing by the step's own count makes the gradient independent of micro-batches and processes, for every model
    family alike.

    Args:
        shift: Whether logits at a position predict the next one (causal) or their own (encoder-decoder, encoder).
        term: What is added to it, a function of the logits at the answers' positions, the answers and that number.
        learned: Whether it has a gradient; else the term alone is learned, and it is only told.
    """

    def loss(outputs: Any, labels: Tensor, num_items_in_batch: Tensor | int | None = None) -> Tensor:
        logits, chosen = answer_logits(outputs["logits"], labels, shift)
        total = functional.cross_entropy(logits, chosen, reduction="sum")
        tokens = len(chosen) if num_items_in_batch is None else num_items_in_batch
        more = term(logits, chosen, tokens) if term else None
        total = total if learned else total.detach()
        return total / tokens if more is None else total / tokens + more

    return loss


class MethodTrainer(ResumableTrainer):
    """A Trainer that calls a run's methods at their moments.

    Args:
        moments: The methods.
        sparing: What forward passes leave out.
        decoder_inputs: Makes decoder inputs from labels, for encoder-decoder models; None for others.
        shift: Whether logits at a position predict the next one, as those of causal models do.
        arguments: The Trainer's own.
    """

    def __init__(
        self,
        *,
        moments: Moments,
        sparing: Sparing,
        decoder_inputs: Callable[[Tensor], Tensor] | None,
        shift: bool,
        **arguments: Any,
    ) -> None:
        loss = answer_loss(shift, self._terms, learned=moments.learns_answers)
        super().__init__(compute_loss_func=loss, **arguments)
        self._moments, self._sparing, self._decoder_inputs = moments, sparing, decoder_inputs
        self._now: tuple[dict[str, Any], Tensor] | None = None  # the micro-batch under way and its rows
        self.add_callback(AfterSteps(moments.after_step))
        self.kept = (moments,)
        sparing.shares &= not self.divides_state  # whose wrapper is told of every pass
        if moments.needs_whole and self.divides_state:
            raise OptionError(
                "this method needs whole gradients on every process, which DeepSpeed divides: launch without it; "
                "--shard divides the base model",
                code="gradients-divided",
            )

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """Create the schedule of the learning rate, times what methods multiply it by."""
        schedule: Any = super().create_scheduler(num_training_steps, optimizer)
        for rate in self._moments.rates:
            rates = [_product(factor, rate) for factor in schedule.lr_lambdas]
            self.lr_scheduler = schedule = LambdaLR(schedule.optimizer, rates)
        return schedule

    def compute_loss(self, model: nn.Module, inputs: dict[str, Any], *rest: Any, **options: Any) -> Any:
        """Compute the loss of a micro-batch, with what methods add to it."""
        inputs = dict(inputs)
        rows = inputs.pop("row")
        if self._decoder_inputs is not None:
            inputs["decoder_input_ids"] = self._decoder_inputs(inputs["labels"])
        with self._moments.forward(rows, inputs) as given:
            self._now = dict(given), rows  # the Trainer takes the labels out
            with self._sparing.forward(given) as needed:
                loss = super().compute_loss(model, needed, *rest, **options)
        self._now = None
        return loss

    def training_step(self, *arguments: Any, **options: Any) -> Tensor:
        """Run one micro-batch; after the last of an optimizer step, before clipping, let methods change the gradients."""
        loss: Tensor = super().training_step(*arguments, **options)
        # What is logged is the task's loss; both were multiplied by the number of processes.
        loss = loss - self._moments.last * self.accelerator.num_processes
        if self.accelerator.sync_gradients:
            scaler = self.accelerator.scaler
            self._moments.gradients(scaler.get_scale() if scaler is not None else 1.0)
        return loss

    def log(self, logs: dict[str, float], *rest: Any, **options: Any) -> None:
        """Log the task's loss and each method's values apart."""
        if "loss" in logs:
            logs |= self._moments.take(self.args.device)
        super().log(logs, *rest, **options)

    def _terms(self, logits: Tensor, answers: Tensor, tokens: Tensor | int) -> Tensor | None:
        if self._now is None:
            raise RuntimeError("a loss is computed outside of a forward pass")
        inputs, rows = self._now
        return self._moments.loss(Batch(inputs, rows, logits, answers, tokens))


def _product(first: Callable[[int], float], second: Callable[[int], float]) -> Callable[[int], float]:
    return lambda step: first(step) * second(step)
