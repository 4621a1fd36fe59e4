"""Choose the order of a run's rows, its seed, and the defaults that depend on the base model (layer L3)."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import replace

from clora_cli.base.intervals import check_size
from clora_cli.model.base_model import Kind, ModelReference
from clora_cli.model.targets import ALL_LINEAR
from clora_cli.nano import MODEL_NAME
from clora_cli.options import TrainOptions
from clora_cli.store.adapter_folder import AdapterFolder
from clora_cli.training.composition import Composition

__all__ = ["default_lr", "default_targets", "order_of_examples", "rows_to_read", "run_seed", "with_defaults"]

_FULL_RANK = 0.1  # of what suits LoRAs
_MOST_ROWS = 10**8  # rows read in a run: their order alone takes a gigabyte


def with_defaults(
    options: TrainOptions, reference: ModelReference, method: Composition, members: Sequence[AdapterFolder]
) -> TrainOptions:
    """Return the options with what suits method, base model and package where they name no learning rate and no layers."""
    records = [member.manifest.lora for member in members if member.manifest]
    had = [record.target_modules for record in records if record.target_modules is not None]  # a merge has none
    layers = options.target_modules or default_targets(reference.id, method.lead.start, had, every=method.trains_whole)
    suits = method.lead.lr or default_lr(reference.id, reference.kind) * (_FULL_RANK if method.trains_whole else 1)
    return replace(options, target_modules=layers, lr=suits if options.lr is None else options.lr)


def default_lr(model: str, kind: Kind) -> float:
    """Return the learning rate that suits a base model: larger models need smaller steps.

    6e-3 was measured for clora-nano (on dev rows); 1e-3 and 3e-4 are what the papers use for T5 and for LLaMA;
    encoders are of T5's size at most.
    """
    if model == MODEL_NAME:
        return 6e-3
    return 3e-4 if kind == "causal" else 1e-3


def default_targets(
    model: str, start: str, earlier: Sequence[Sequence[str]], *, every: bool = False
) -> tuple[str, ...]:
    """Return the layers that a new adapter changes where none are named; none for query and value projections.

    On clora-nano these two alone leave it to rounding when, and whether, a training leaves its plateau; all linear layers do
    not. A package goes on with the layers that it has, and a LoRA that tasks share is sized for query and value projections.

    Args:
        model: The base model's name.
        start: Where the method's training starts: ``shared`` for a part of one LoRA.
        earlier: What each adapter of the package, in the order of training, was asked to change.
        every: Whether all linear layers are meant on any base model, as where whole weights are trained.
    """
    if not every and (model != MODEL_NAME or start == "shared"):
        return ()
    return tuple(earlier[-1]) if earlier else (ALL_LINEAR,)


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


def order_of_examples(rows: int, options: TrainOptions, seed: int, lengths: Sequence[int] = ()) -> list[int]:
    """Fix the order in which a run reads its rows, over all its epochs.

    The order depends on the seed alone: not on the number of processes, and not on interruptions. Each epoch is a
    permutation, filled up from its own beginning so that every optimizer step has a whole batch. Of ``length_window``
    micro-batches in it, the shortest rows then make one, the next another, and they come in an order of their own.

    Args:
        rows: Number of training rows, at least 1.
        options: As for ``rows_to_read``, and ``length_window``.
        seed: From ``run_seed``.
        lengths: How long each row is, in any unit; needed for a window of more than one micro-batch.

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
        epoch = (epoch * (padded // rows + 1))[:padded]
        order.extend(epoch if options.length_window == 1 else _alike(epoch, options, lengths, generator))
    return order[:wanted]


def _alike(epoch: Sequence[int], options: TrainOptions, lengths: Sequence[int], generator: random.Random) -> list[int]:
    """Let rows of like length share a micro-batch, window by window."""
    size, order = options.batch_size, []
    for start in range(0, len(epoch), size * options.length_window):
        rows = sorted(epoch[start : start + size * options.length_window], key=lengths.__getitem__)
        batches = [rows[place : place + size] for place in range(0, len(rows), size)]
        generator.shuffle(batches)
        order += [row for batch in batches for row in batch]
    return order
