"""Show progress, stop a run cleanly, and flush tiny numbers to zero (layer L3)."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from clora_cli.base.errors import CloraError
from clora_cli.base.progress import Advance
from clora_cli.processes import signals

__all__ = ["AfterSteps", "Interruption", "Watch", "flushed_denormals"]


@contextlib.contextmanager
def flushed_denormals() -> Iterator[None]:
    """Let the processor treat numbers below 1e-38 as 0 for a while.

    Gradients of a model that has learned its task are full of them, and arithmetic on them is many times slower.
    """
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


class Interruption:
    """Turns the signals that end a process into a request to stop after the current step, with a checkpoint."""

    def __init__(self) -> None:
        self.wanted, self._first = False, math.inf
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Interruption:
        """Take the signals over."""
        self._stack.enter_context(signals.handled(self._note))
        return self

    def __exit__(self, *_: object) -> None:
        """Give the signals back."""
        self._stack.close()

    def _note(self, number: int, frame: FrameType | None) -> None:
        # A second Ctrl-C means now; but one Ctrl-C reaches a process twice where a launcher passes it on as well.
        signals.note(number)
        now = time.monotonic()
        if now - self._first > signals.ONE:
            raise KeyboardInterrupt
        self.wanted, self._first = True, min(self._first, now)


class Watch(TrainerCallback):
    """Shows progress; stops on request or when the loss is not finite."""

    def __init__(self, advance: Advance, interruption: Interruption) -> None:
        self._advance, self._interruption = advance, interruption

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Begin where an interrupted run stopped."""
        if state.global_step:
            self._advance(state.global_step, "")

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
                f"{what} is {shown[odd]} at step {state.global_step}: lower --lr, or check the data and --dtype",
                code="training-diverged",
            )
        self._advance(1, "  ".join(f"{key} {value:.4g}" for key, value in shown.items()))

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        """Save a checkpoint and stop, on all processes together, once any of them was asked to stop."""
        if _any_process(self._interruption.wanted, args) and state.global_step < state.max_steps:
            self._interruption.wanted = True
            control.should_save = control.should_training_stop = True
        return control


class AfterSteps(TrainerCallback):
    """Calls a function after every optimizer step, before a checkpoint is written."""

    def __init__(self, act: Callable[[int], None]) -> None:
        self._act = act

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        """Call the function."""
        self._act(state.global_step)
        return control


def _any_process(flag: bool, args: TrainingArguments) -> bool:
    if args.world_size == 1:
        return flag
    wish = torch.tensor(float(flag), device=args.device)
    torch.distributed.all_reduce(wish, torch.distributed.ReduceOp.MAX)
    return bool(wish.item())
