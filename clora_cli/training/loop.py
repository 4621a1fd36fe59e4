"""Transformers' Trainer with what methods add to a step, and an order of rows fixed in advance (layer L3)."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.lr_scheduler import LambdaLR

from clora_cli.base.errors import OptionError
from clora_cli.methods import Probe
from clora_cli.training.answer_logits import answer_logits
from clora_cli.training.callbacks import AfterSteps
from clora_cli.training.confinement import Confinement
from clora_cli.training.filtering import GradientFilter
from clora_cli.training.penalties import Penalties
from clora_cli.training.previous import Previous
from clora_cli.training.resuming import ResumableTrainer
from clora_cli.training.row_gates import Gates

__all__ = ["PenaltyTrainer", "Rows", "answer_loss"]


class Rows(torch.utils.data.Dataset[dict[str, Any]]):
    """Encoded rows in the order of a whole run; the Trainer reads them as one epoch, in sequence."""

    def __init__(self, items: Sequence[dict[str, list[int]]], order: Sequence[int]) -> None:
        self._items, self._order = items, order

    def __len__(self) -> int:
        """Return the number of rows over all epochs."""
        return len(self._order)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return one encoded row and its number."""
        row = self._order[index]
        return {**self._items[row], "row": row}


def answer_loss(shift: bool, term: Callable[[Tensor, Tensor | int], Tensor] | None = None) -> Callable[..., Tensor]:
    """Return the loss: cross-entropy summed over answer tokens, divided by their number in the whole optimizer step.

    Dividing by the step's own count makes the gradient independent of micro-batches and processes, for every model
    family alike.

    Args:
        shift: Whether logits at a position predict the next one (causal) or their own (encoder-decoder).
        term: What is added to it, a function of the logits at the answers' positions and of that number.
    """

    def loss(outputs: Any, labels: Tensor, num_items_in_batch: Tensor | int | None = None) -> Tensor:
        logits, chosen = answer_logits(outputs["logits"], labels, shift)
        total = functional.cross_entropy(logits, chosen, reduction="sum")
        tokens = len(chosen) if num_items_in_batch is None else num_items_in_batch
        return total / tokens if term is None else total / tokens + term(logits, tokens)

    return loss


class PenaltyTrainer(ResumableTrainer):
    """A Trainer that adds penalties to the gradients once per optimizer step.

    Args:
        penalties: The run's penalties, or None.
        gates: What mixes the adapters row by row, or None.
        confinement: What keeps the new adapter within its subspace, or None.
        previous: The model that the new one's answers are compared with, or None.
        filtering: What filters the gradients, or None.
        probe: What those penalties may ask of the model that relate the new adapter to earlier ones.
        past: The tasks of the earlier adapters, to name such relations by.
        decoder_inputs: Makes decoder inputs from labels, for encoder-decoder models; None for causal ones.
        arguments: The Trainer's own.
    """

    def __init__(
        self,
        *,
        penalties: Penalties | None,
        decoder_inputs: Callable[[Tensor], Tensor] | None,
        gates: Gates | None = None,
        confinement: Confinement | None = None,
        previous: Previous | None = None,
        filtering: GradientFilter | None = None,
        probe: Probe | None = None,
        past: Sequence[str] = (),
        **arguments: Any,
    ) -> None:
        loss = answer_loss(decoder_inputs is None, previous.term if previous else None)
        super().__init__(compute_loss_func=loss, **arguments)
        self._gates, self._confinement, self._previous, self._filtering = gates, confinement, previous, filtering
        if confinement is not None:
            self.add_callback(AfterSteps(confinement.after_step))
        self._penalties, self._decoder_inputs, self._probe, self._past = penalties, decoder_inputs, probe, past
        self.kept = tuple(part for part in (penalties, confinement) if part is not None)
        special = any(part is not None for part in (penalties, confinement, previous, filtering))
        if special and self.sharded:
            raise OptionError(
                "this method needs whole adapter tensors on every process: launch without DeepSpeed and FSDP"
            )

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """Create the schedule of the learning rate; a subspace's warm-up has another rate."""
        schedule: Any = super().create_scheduler(num_training_steps, optimizer)
        if self._confinement is not None:
            rates = [_product(factor, self._confinement.rate) for factor in schedule.lr_lambdas]
            self.lr_scheduler = schedule = LambdaLR(schedule.optimizer, rates)
        return schedule

    def compute_loss(self, model: nn.Module, inputs: dict[str, Any], *rest: Any, **options: Any) -> Any:
        """Compute the task loss; the labels are taken out of the inputs before the model sees them."""
        inputs = dict(inputs)
        rows = inputs.pop("row")
        if self._gates is not None:
            self._gates.before(rows)
        if self._decoder_inputs is not None:
            inputs = {**inputs, "decoder_input_ids": self._decoder_inputs(inputs["labels"])}
        if self._previous is not None:
            self._previous.before(inputs)
        with self._filtering.watching(inputs) if self._filtering else contextlib.nullcontext(inputs) as given:
            return super().compute_loss(model, given, *rest, **options)

    def training_step(self, *arguments: Any, **options: Any) -> Tensor:
        """Run one micro-batch; after the last of an optimizer step, add the penalties' gradients and filter (before clipping)."""
        loss: Tensor = super().training_step(*arguments, **options)
        if self._previous is not None:
            loss = loss - self._previous.last * self.accelerator.num_processes  # which the loss was multiplied by
        if not self.accelerator.sync_gradients:
            return loss
        if self._penalties is not None:
            if self._probe is not None:
                self._penalties.relate(self._probe, self.state.global_step, self.state.max_steps)
            scaler = self.accelerator.scaler
            self._penalties.add_gradients(scaler.get_scale() if scaler is not None else 1.0)
        if self._filtering is not None:
            self._filtering.apply()
        if self._confinement is not None:
            self._confinement.clear_gradients()
        return loss

    def log(self, logs: dict[str, float], *rest: Any, **options: Any) -> None:
        """Log the task loss and each penalty apart, and new relations to earlier adapters."""
        if self._previous is not None and "loss" in logs:
            logs |= {f"penalty/{name}": value for name, value in self._previous.take().items()}
        if self._penalties is not None and "loss" in logs:
            logs |= {f"penalty/{name}": value for name, value in self._penalties.take().items()}
            for name, numbers in self._penalties.take_relations().items():
                logs |= {f"relation/{name}/{task}": one for task, one in zip(self._past, numbers, strict=True)}
        super().log(logs, *rest, **options)


def _product(first: Callable[[int], float], second: Callable[[int], float]) -> Callable[[int], float]:
    return lambda step: first(step) * second(step)
