"""Transformers' Trainer with penalties, an order of rows fixed in advance, and clean interruption (layer L3)."""

from __future__ import annotations

import contextlib
import math
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn import functional
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from clora_cli.errors import CloraError, OptionError
from clora_cli.methods import Probe
from clora_cli.progress import Advance
from clora_cli.training.gates import Gates
from clora_cli.training.penalties import Penalties
from clora_cli.training.subspace import Confinement

__all__ = ["Interruption", "PenaltyTrainer", "Rows", "Watch", "answer_loss", "flushed_denormals"]

_ONE_SIGNAL = 1.0  # seconds within which signals are taken for one


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


def answer_loss(shift: bool) -> Callable[..., Tensor]:
    """Return the loss: cross-entropy summed over answer tokens, divided by their number in the whole optimizer step.

    Dividing by the step's own count makes the gradient independent of micro-batches and processes, for every model
    family alike.

    Args:
        shift: Whether logits at a position predict the next one (causal) or their own (encoder-decoder).
    """

    def loss(outputs: Any, labels: Tensor, num_items_in_batch: Tensor | int | None = None) -> Tensor:
        logits = outputs["logits"]
        if shift:
            logits, labels = logits[:, :-1], labels[:, 1:]
        chosen = labels != -100
        total = functional.cross_entropy(logits[chosen].float(), labels[chosen], reduction="sum")
        return total / (chosen.sum() if num_items_in_batch is None else num_items_in_batch)

    return loss


class PenaltyTrainer(Trainer):
    """A Trainer that adds penalties to the gradients once per optimizer step.

    Args:
        penalties: The run's penalties, or None.
        gates: What mixes the adapters row by row, or None.
        confinement: What keeps the new adapter within its subspace, or None.
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
        probe: Probe | None = None,
        past: Sequence[str] = (),
        **arguments: Any,
    ) -> None:
        super().__init__(compute_loss_func=answer_loss(decoder_inputs is None), **arguments)
        self._gates, self._confinement = gates, confinement
        if confinement is not None:
            self.add_callback(_AfterSteps(confinement.after_step))
        self._penalties, self._decoder_inputs, self._probe, self._past = penalties, decoder_inputs, probe, past
        special = penalties is not None or confinement is not None
        if special and str(self.accelerator.distributed_type).rpartition(".")[2] in {"DEEPSPEED", "FSDP"}:
            raise OptionError(
                "penalties and subspaces need whole adapter tensors on every process: launch without DeepSpeed and FSDP"
            )

    def compute_loss(self, model: nn.Module, inputs: dict[str, Any], *rest: Any, **options: Any) -> Any:
        """Compute the task loss; the labels are taken out of the inputs before the model sees them."""
        inputs = dict(inputs)
        rows = inputs.pop("row")
        if self._gates is not None:
            self._gates.before(rows)
        if self._decoder_inputs is not None:
            inputs = {**inputs, "decoder_input_ids": self._decoder_inputs(inputs["labels"])}
        return super().compute_loss(model, inputs, *rest, **options)

    def training_step(self, *arguments: Any, **options: Any) -> Tensor:
        """Run one micro-batch; after the last of an optimizer step, add the penalties' gradients (before clipping)."""
        loss: Tensor = super().training_step(*arguments, **options)
        if self._penalties is not None and self.accelerator.sync_gradients:
            if self._probe is not None:
                self._penalties.relate(self._probe, self.state.global_step, self.state.max_steps)
            scaler = self.accelerator.scaler
            self._penalties.add_gradients(scaler.get_scale() if scaler is not None else 1.0)
        if self._confinement is not None and self.accelerator.sync_gradients:
            self._confinement.clear_gradients()
        return loss

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Save a checkpoint; one that could not be written whole is taken away again.

        Raises:
            CloraError: If the disk is full or not writable.
        """
        folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        try:
            for kept in (self._penalties, self._confinement) if self.args.should_save else ():
                if kept is not None:
                    kept.save(folder)  # first: a checkpoint with the Trainer's state is taken for whole
            super()._save_checkpoint(model, trial)
        except (OSError, RuntimeError, SafetensorError) as error:  # torch reports a full disk as RuntimeError
            shutil.rmtree(folder, ignore_errors=True)
            reason = str(error).splitlines()[0]
            raise CloraError(
                f"cannot write checkpoint {folder}: {reason}; free space, then continue with --resume"
            ) from error

    def log(self, logs: dict[str, float], *rest: Any, **options: Any) -> None:
        """Log the task loss and each penalty apart, and new relations to earlier adapters."""
        if self._penalties is not None and "loss" in logs:
            logs |= {f"penalty/{name}": value for name, value in self._penalties.take().items()}
            for name, numbers in self._penalties.take_relations().items():
                logs |= {f"relation/{name}/{task}": one for task, one in zip(self._past, numbers, strict=True)}
        super().log(logs, *rest, **options)


@contextlib.contextmanager
def flushed_denormals() -> Iterator[None]:
    """Let the processor take numbers below 1e-38 for 0 for a while.

    Gradients of a model that has learned its task are full of them, and arithmetic on them is many times slower.
    """
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


class Interruption:
    """Turns SIGINT and SIGTERM into a wish to stop after the current step, with a checkpoint."""

    def __init__(self) -> None:
        self.wanted = False
        self._first = math.inf
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interruption:
        """Take over the two signals."""
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        """Give the signals back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        # A second Ctrl-C means now; but one Ctrl-C reaches a process twice where a launcher passes it on as well.
        now = time.monotonic()
        if now - self._first > _ONE_SIGNAL:
            raise KeyboardInterrupt
        self.wanted, self._first = True, min(self._first, now)


class Watch(TrainerCallback):
    """Shows progress, stops on a wish or on a loss that is no number."""

    def __init__(self, advance: Advance, interruption: Interruption) -> None:
        self._advance, self._interruption = advance, interruption

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: dict[str, float], **_: Any
    ) -> None:
        """Advance the progress bar.

        Raises:
            CloraError: If the loss is not finite.
        """
        if "loss" not in logs:
            return
        shown = {
            key.removeprefix("penalty/"): value for key, value in logs.items() if key == "loss" or "penalty" in key
        }
        if odd := next((key for key, value in shown.items() if not math.isfinite(value)), None):
            what = "the loss" if odd == "loss" else f"the penalty of {odd}"
            raise CloraError(
                f"{what} is {shown[odd]} at step {state.global_step}: lower --lr, or check the data and --dtype"
            )
        self._advance(1, "  ".join(f"{key} {value:.4g}" for key, value in shown.items()))

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        """Ask for a checkpoint and the end, on all processes together, once any of them was asked to stop."""
        if _any_process(self._interruption.wanted, args) and state.global_step < state.max_steps:
            self._interruption.wanted = True
            control.should_save = control.should_training_stop = True
        return control


class _AfterSteps(TrainerCallback):
    """Does something after every optimizer step, before a checkpoint is written."""

    def __init__(self, act: Callable[[int], None]) -> None:
        self._act = act

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        self._act(state.global_step)
        return control


def _any_process(flag: bool, args: TrainingArguments) -> bool:
    if args.world_size == 1:
        return flag
    wish = torch.tensor(float(flag), device=args.device)
    torch.distributed.all_reduce(wish, torch.distributed.ReduceOp.MAX)
    return bool(wish.item())
