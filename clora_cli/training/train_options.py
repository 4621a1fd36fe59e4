"""What can be asked of a training run (layer L3)."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clora_cli.base.errors import OptionError
from clora_cli.base.intervals import check_size, check_sizes
from clora_cli.model.backbone import DTYPES, QUANTIZE
from clora_cli.model.base_model import Kind
from clora_cli.nano import MODEL_NAME

__all__ = ["TrainOptions", "default_lr", "order_of_examples", "rows_to_read", "run_seed"]

_MOST_ROWS = 10**8  # rows read in a run: their order alone takes a gigabyte
SCHEDULES = ("linear", "constant", "cosine")
LEARN = ("last", "all")


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """Everything that decides what one training run computes.

    Attributes:
        data: The task's name or path, as ``clora_cli.data.load_task`` takes it.
        method: A method, or several joined by ``+`` whose penalties add up.
        method_options: Option texts of the method; ``name.key`` where two methods share a key.
        model: Base model: ``clora-nano``, a folder or a Hub id.
        package: The folder of earlier adapters, which the new one joins.
        out: The new adapter's folder; by default ``package/task``.
        rank: LoRA rank.
        alpha: LoRA alpha; the scaling is alpha / rank.
        dropout: LoRA dropout, in [0, 1).
        target_modules: Endings of module paths; empty for query and value projections.
        epochs: Passes over the training rows.
        max_steps: Optimizer steps instead of epochs; 0 to go by epochs.
        lr: Peak learning rate of AdamW; None for ``default_lr`` of the base model.
        schedule: Learning-rate schedule: linear (to 0), constant or cosine (to 0).
        warmup_steps: Steps of linear warm-up.
        weight_decay: AdamW's weight decay.
        max_grad_norm: Gradients are clipped to this norm; 0 for no clipping.
        batch_size: Rows of one forward pass, over all processes.
        grad_accum: Forward passes of one optimizer step.
        max_length: Tokens of a prompt (seq2seq) or of prompt and answer (causal).
        max_answer_length: Tokens of an answer.
        learn: Which answers of a conversation are learned: the ``last``, or ``all``.
        train_rows: Use at most so many training rows, drawn by the seed; 0 for all.
        dtype: Type of the base model's weights and of the arithmetic; adapters are float32.
        quantize: ``none``, ``4bit`` or ``8bit`` base weights.
        gradient_checkpointing: Recompute activations to save memory.
        base_dropout: Keep the base model's own dropout, where it has any (T5 and BERT have 0.1).
        seed: Seed of initial values, data order and dropout.
        device: ``auto``, ``cpu``, ``cuda`` …: of several devices a process takes the first.
        columns: Our column roles to a file's own column names.
        save_steps: Steps between checkpoints for ``--resume``; 0 for ten in a run.
    """

    data: str
    method: str = "inc-lora"
    method_options: Mapping[str, str] = field(default_factory=dict)
    model: str = MODEL_NAME
    revision: str | None = None
    package: Path = Path("adapters")
    out: Path | None = None
    rank: int = 8
    alpha: float = 32
    dropout: float = 0.0
    target_modules: tuple[str, ...] = ()
    epochs: float = 4
    max_steps: int = 0
    lr: float | None = None
    schedule: str = "linear"
    warmup_steps: int = 0
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    batch_size: int = 16
    grad_accum: int = 1
    max_length: int = 512
    max_answer_length: int = 64
    train_rows: int = 0
    learn: str = "last"
    dtype: str = "auto"
    quantize: str = "none"
    gradient_checkpointing: bool = False
    base_dropout: bool = False
    seed: int = 42
    device: str = "auto"
    columns: Mapping[str, str] = field(default_factory=dict)
    save_steps: int = 0
    report_to: str = "none"

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            OptionError: If a value is out of range.
        """
        check_sizes(vars(self))
        at_least_one = {"rank": self.rank, "batch-size": self.batch_size, "grad-accum": self.grad_accum}
        at_least_one |= {"max-length": self.max_length, "max-answer-length": self.max_answer_length}
        for name, value in at_least_one.items():
            if value < 1:
                raise OptionError(f"--{name} {value}: give a whole number of at least 1")
        for name in ("max_steps", "warmup_steps", "weight_decay", "max_grad_norm", "train_rows", "save_steps"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise OptionError(f"--{name.replace('_', '-')} {getattr(self, name)}: give a number of at least 0")
        above_zero = (
            {"alpha": self.alpha}
            | ({} if self.lr is None else {"lr": self.lr})
            | ({} if self.max_steps else {"epochs": self.epochs})
        )
        for name, number in above_zero.items():
            if not 0 < number < float("inf"):
                raise OptionError(f"--{name} {number}: give a number above 0")
        if not 0 <= self.dropout < 1:
            raise OptionError(f"--dropout {self.dropout}: give a number in [0, 1)")
        if self.device.partition(":")[2] not in {"", "0"}:
            raise OptionError(
                f"--device {self.device}: a training takes the first device that it sees; "
                "let it see another one alone, as CUDA_VISIBLE_DEVICES does, or take several with --nproc"
            )
        _check_choice("schedule", self.schedule, SCHEDULES)
        _check_choice("learn", self.learn, LEARN)
        _check_choice("dtype", self.dtype, DTYPES)
        _check_choice("quantize", self.quantize, QUANTIZE)

    def recorded(self) -> dict[str, Any]:
        """Return what the manifest keeps of these options: all that changes the numbers, nothing that does not."""
        names = ["epochs", "max_steps", "lr", "schedule", "warmup_steps", "weight_decay", "max_grad_norm", "batch_size"]
        names += ["grad_accum", "max_length", "max_answer_length", "train_rows", "dtype", "quantize", "base_dropout"]
        # Younger options are recorded where they are not their default: older adapters have none of them.
        younger = {"learn": self.learn} if self.learn != "last" else {}
        return {name: getattr(self, name) for name in names} | younger


def default_lr(model: str, kind: Kind) -> float:
    """Return the learning rate that suits a base model: larger models want smaller steps.

    6e-3 was measured for clora-nano (on dev rows); 1e-3 and 3e-4 are what the papers use for T5 and for LLaMA.
    """
    if model == MODEL_NAME:
        return 6e-3
    return 1e-3 if kind == "seq2seq" else 3e-4


def run_seed(seed: int, task: str) -> int:
    """Mix the task's name into the seed, so that no two tasks start from the same random factors."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{task}".encode()).digest()[:4], "big") >> 1


def rows_to_read(rows: int, options: TrainOptions) -> int:
    """Return how many rows a run reads, over all its epochs: a multiple of ``batch_size * grad_accum``.

    Args:
        rows: Number of training rows, at least 1.
        options: ``batch_size``, ``grad_accum``, ``epochs`` and ``max_steps``.

    Raises:
        OptionError: If they are more than anybody reads.
    """
    step = options.batch_size * options.grad_accum
    padded = -(-rows // step) * step
    wanted = options.max_steps * step if options.max_steps else max(step, round(options.epochs * padded / step) * step)
    check_size("--epochs or --max-steps, with --batch-size and --grad-accum: rows to read", wanted, _MOST_ROWS)
    return wanted


def order_of_examples(rows: int, options: TrainOptions, seed: int) -> list[int]:
    """Fix the order in which a run reads its rows, over all its epochs.

    The order depends on the seed alone: not on the number of processes, and not on interruptions. Each epoch is a
    permutation, filled up from its own beginning so that every optimizer step has a whole batch.

    Args:
        rows: Number of training rows, at least 1.
        options: As for ``rows_to_read``.
        seed: From ``run_seed``.

    Returns:
        Row numbers, as many as ``rows_to_read``.

    Raises:
        OptionError: As ``rows_to_read``.
    """
    generator = random.Random(seed)
    step = options.batch_size * options.grad_accum
    padded, wanted = -(-rows // step) * step, rows_to_read(rows, options)
    order: list[int] = []
    while len(order) < wanted:
        epoch = list(range(rows))
        generator.shuffle(epoch)
        order.extend((epoch * (padded // rows + 1))[:padded])
    return order[:wanted]


def _check_choice(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise OptionError(f"--{name} {value}: choose one of {', '.join(allowed)}")
