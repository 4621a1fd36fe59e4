"""Options of a training run (layer L1)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from clora_cli.base import registry
from clora_cli.base.errors import OptionError
from clora_cli.base.options import option
from clora_cli.nano import MODEL_NAME
from clora_cli.options.shared_options import (
    LENGTHS,
    ROWS,
    ModelOptions,
    dtype_option,
    nproc_option,
    quantize_option,
    seed_option,
)

__all__ = ["TrainOptions"]

SCHEDULES = ("linear", "constant", "cosine")
LEARN = ("last", "all")
AUGMENT = ("none", "crop", "flip", "crop,flip")


@dataclass(frozen=True, kw_only=True)
class TrainOptions(ModelOptions):
    """Everything that decides what one training run computes.

    ``lr`` None stands for the rate that suits the base model, ``out`` None for ``package/task``, and no target modules
    for query and value projections, or what a package of the bundled model has.
    """

    data: str = option(
        help="Task to learn: a name (clora tasks), a file, a folder or a Hub id.",
        flags=("-d", "--data"),
        completes="task",
        recipe=False,
    )
    method: str = option(
        "inc-lora",
        f"Method or .py file, or several joined by '+': {registry.listed('methods')}.",
        parse=lambda text: registry.admit("methods", text),
        completes="methods",
        recipe=False,
    )
    method_options: Mapping[str, str] = option(
        {},
        "Option of the method, as `clora show METHOD` tells; repeatable.",
        flags=("-o", "--option"),
        metavar="KEY=VALUE",
        recipe=False,
    )
    model: str = option(
        MODEL_NAME,
        "Base model: clora-nano (bundled), a folder, a GGUF file or a Hub id.",
        flags=("-m", "--model"),
        environment=("CLORA_TRAIN_TASK_MODEL", "CLORA_MODEL"),
        recipe=False,
    )
    package: Path = option(
        Path("adapters"), "Folder of the earlier adapters.", flags=("-p", "--package"), writes=True, recipe=False
    )
    out: Path | None = option(None, "Folder of the new adapter; PACKAGE/TASK by default.", writes=True, recipe=False)
    rank: int = option(8, "LoRA rank.", interval="[1, inf)", most=1 << 16, table="lora")
    alpha: float = option(32, "LoRA alpha; the scaling is alpha / rank.", interval="(0, inf)", most=1e6, table="lora")
    dropout: float = option(0.0, "LoRA dropout.", interval="[0, 1)", table="lora")
    target_modules: tuple[str, ...] = option(
        (),
        "Layer name endings, or all-linear; repeatable. By default query and value projections, of clora-nano all-linear.",
        table="lora",
    )
    epochs: float = option(4, "Passes over the training rows.", most=1e6, table="training")
    max_steps: int = option(
        0, "Optimizer steps instead of epochs; 0 trains by epochs.", interval="[0, inf)", most=10**9, table="training"
    )
    lr: float | None = option(
        None,
        "Peak learning rate of AdamW. By default 6e-3 for clora-nano, 1e-3 for encoders with or without a decoder, 3e-4 for "
        "others; a tenth of it for whole weights.",
        interval="(0, inf)",
        most=1e3,
        table="training",
    )
    schedule: str = option("linear", "linear, constant or cosine.", choices=SCHEDULES, table="training")
    warmup_steps: int = option(0, "Steps of linear warm-up.", interval="[0, inf)", table="training")
    weight_decay: float = option(0.0, "Weight decay of AdamW.", interval="[0, inf)", table="training")
    max_grad_norm: float = option(
        1.0, "Clip gradients to this norm; 0 does not clip.", interval="[0, inf)", table="training"
    )
    batch_size: int = option(
        16,
        "Rows of one forward pass, over all processes.",
        flags=("-b", "--batch-size"),
        interval="[1, inf)",
        most=ROWS,
        table="training",
    )
    grad_accum: int = option(
        1, "Forward passes of one optimizer step.", interval="[1, inf)", most=ROWS, table="training"
    )
    max_length: int = option(
        512,
        "Tokens of a prompt, with the answer in causal models.",
        interval="[1, inf)",
        most=LENGTHS,
        table="training",
    )
    max_answer_length: int = option(64, "Tokens of an answer.", interval="[1, inf)", most=LENGTHS, table="training")
    train_rows: int = option(
        0, "Use so many training rows, drawn by the seed; 0 uses all.", interval="[0, inf)", table="training"
    )
    learn: str = option(
        "last",
        "Answers of a conversation to learn: last, or all, each after the turns before it.",
        choices=LEARN,
        table="training",
        since="0.2.0",
    )
    length_window: int = option(
        1,
        "Micro-batches among whose rows those of like length come together, which pads less; 1 takes rows as the seed has them.",
        interval="[1, inf)",
        most=ROWS,
        table="training",
        since="0.2.0",
    )
    augment: str = option(
        "none",
        "What varies a training image each time that it is seen: none, crop (a random part of it), flip (its mirror image, half of the "
        "times) or crop,flip.",
        choices=AUGMENT,
        table="training",
        since="0.2.0",
    )
    dtype: str = dtype_option("training")
    quantize: str = quantize_option("training")
    gradient_checkpointing: bool = option(False, "Recompute activations to save memory.")
    base_dropout: bool = option(False, "Keep the base model's own dropout, as T5 and BERT have it.", table="training")
    nproc: int = nproc_option("Processes; each takes its part of every batch.")
    seed: int = seed_option("Seed of initial values, data order and dropout.")
    save_steps: int = option(0, "Steps between checkpoints; 0 makes ten in a run.", interval="[0, inf)")
    report_to: str = option("none", "A tracker of Transformers: wandb, mlflow, tensorboard …")

    def check(self) -> None:
        """Check what goes beyond the range of a single option.

        Raises:
            OptionError: If a run would have no length, or take a device that is not the first.
        """
        if not self.max_steps and not 0 < self.epochs < float("inf"):
            raise OptionError(f"--epochs {self.epochs}: give a number above 0", code="option-out-of-range")
        if self.device.partition(":")[2] not in {"", "0"}:
            raise OptionError(
                f"--device {self.device}: training uses the first visible device; "
                "choose another with CUDA_VISIBLE_DEVICES, or use several with --nproc",
                code="training-device-not-first",
            )
