"""What a planned training will take of every process's memory, and send to the others (layer L3)."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from torch import nn

from clora_cli.data import IGNORED, encode, encode_prompt, uses_chat
from clora_cli.model.footprint import Batch, Footprint, footprint
from clora_cli.model.sharding import block_modules
from clora_cli.training.plan import Plan

__all__ = ["Forecast", "forecast", "in_units", "numbers", "of_process"]

_ADAM_STATES = 4  # weight, gradient and two moments of each trainable number, all float32
_FLOAT = 4
_LOOKED_AT = 4  # times a batch: texts of most characters, among which the rows of most tokens are
# What a model can raise that decides by numbers, of which there are none on the meta device.
_UNFIT = (AttributeError, IndexError, KeyError, NotImplementedError, RuntimeError, TypeError, ValueError)


@dataclass(frozen=True)
class Forecast:
    """Bytes of one of the processes.

    Attributes:
        processes: How many there are.
        base: The base model's weights, or its part of them.
        together: Weights of a divided base model that are put together at a time: two blocks, and what stands outside of them.
        past: The earlier adapters.
        adapter: The new one, its gradients and AdamW's moments.
        activations: What a forward pass of its rows keeps for the backward pass; None if that cannot be told.
        logits: Logits and their gradients, at the answers' positions; None likewise.
        sent: What it sends to the others in one optimizer step.
    """

    processes: int
    base: int
    together: int
    past: int
    adapter: int
    activations: int | None
    logits: int | None
    sent: int

    @property
    def total(self) -> int:
        """All of it at once."""
        parts = (self.base, self.together, self.past, self.adapter, self.activations or 0, self.logits or 0)
        return sum(parts)

    def data(self) -> dict[str, Any]:
        """Return the forecast as JSON data."""
        return {**asdict(self), "total": self.total}

    def text(self) -> str:
        """Return the forecast for people."""
        names = {
            "base": "base",
            "together": "put together for a pass",
            "past": "earlier adapters",
            "adapter": "adapter with AdamW",
            "activations": "activations",
            "logits": "logits",
        }
        sizes: Mapping[str, int | None] = asdict(self)
        parts = [f"{told} {in_units(size)}" for name, told in names.items() if (size := sizes[name])]
        unknown = "" if self.activations is not None else " before activations"
        return f"{in_units(self.total)}{unknown} on each of {self.processes}: {', '.join(parts)}"


def forecast(plan: Plan, model: Any, sites: Sequence[str], weight: float, outside: float, trainable: int) -> Forecast:
    """Forecast a training's memory.

    Args:
        plan: The run.
        model: Its base model without weights, which this wraps.
        sites: The layers that it adapts.
        weight: Bytes of each number in the base model's blocks.
        outside: Bytes of each number outside of them, such as embeddings, which are not quantised.
        trainable: Numbers in the new adapter.
    """
    options = plan.options
    count = int(os.environ.get("WORLD_SIZE", options.nproc))
    acting = plan.parents if plan.method.lead.past != "none" else ()
    around, *blocks = numbers(model)
    sizes = [around * outside, *(block * weight for block in blocks)]
    seen = _footprint(plan, model, sites, max(1, options.batch_size // count)) if trainable else Footprint(0, 0, 0)
    kept = None if seen is None else seen.recomputed if options.gradient_checkpointing else seen.kept
    past, logits = sum(member.weights.stat().st_size for member in acting), None if seen is None else seen.logits
    divided = sizes if options.shard and count > 1 else ()
    passes = 2 * options.grad_accum if trainable else 1
    return of_process(count, sum(sizes), divided, past, trainable, kept, logits, passes)


def of_process(
    processes: int,
    base: float,
    divided: Sequence[float],
    past: int,
    trainable: int,
    activations: int | None,
    logits: int | None,
    passes: int,
) -> Forecast:
    """Return what each of several processes needs.

    Args:
        processes: How many.
        base: Bytes of the base model's weights.
        divided: If it is divided, the bytes of what stands outside its blocks, then of each block.
        past: Bytes of the earlier adapters.
        trainable: Numbers in the new adapter.
        activations: As ``Forecast.activations``.
        logits: As ``Forecast.logits``.
        passes: How often the blocks are run in one optimizer step, forward or backward.
    """
    others = (processes - 1) / processes
    gradients = 2 * others * trainable * _FLOAT  # a ring: each number goes round twice
    return Forecast(
        processes=processes,
        base=int(base / (processes if divided else 1)),
        together=int(divided[0] + sum(sorted(divided[1:])[-2:])) if divided else 0,
        past=past,
        adapter=_FLOAT * _ADAM_STATES * trainable,
        activations=activations,
        logits=logits,
        sent=int(gradients + (passes * others * base if divided else 0)),
    )


def numbers(model: nn.Module) -> list[int]:
    """Return how many numbers stand outside a model's blocks, then in each block."""
    blocks = [_numbers(block) for block in block_modules(model)]
    return [_numbers(model) - sum(blocks), *blocks]


def in_units(size: float) -> str:
    """Return a number of bytes for people, such as ``1.5 GiB``."""
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"


def _numbers(model: nn.Module) -> int:
    return sum(one.numel() for one in {id(one): one for one in model.parameters()}.values())


def _footprint(plan: Plan, model: Any, sites: Sequence[str], rows: int) -> Footprint | None:
    import torch
    from peft import get_peft_model

    from clora_cli.model.backbone import dtype_name, pick_device
    from clora_cli.training.build import lora_config

    options = plan.options
    if not sites:  # a soft prompt
        return None
    batch = _longest(plan, model, rows)
    try:
        model.to(getattr(torch, dtype_name(options.dtype, pick_device(options.device)))).requires_grad_(False)
        return footprint(get_peft_model(model, lora_config(plan, model, tuple(sites))).train(), batch)
    except _UNFIT:
        return None


def _longest(plan: Plan, model: Any, rows: int) -> Batch:
    """Return the batch of the rows of most tokens, or nearly so."""
    from clora_cli.model.conventions import read_tokens
    from clora_cli.model.loading import read_tokenizer

    options = plan.options
    kind: Literal["causal", "seq2seq"] = "causal" if plan.reference.kind == "causal" else "seq2seq"
    tokens = read_tokens(read_tokenizer(plan.reference), model, plan.reference)
    if tokens.seen is not None:  # images are of one size by then, and have one answer each
        encode_prompt(plan.rows[0], tokens, kind=kind, max_length=options.max_length)
        tokens.seen.show(model)
        return Batch(rows, 1, 1, rows)
    chat = uses_chat(plan.task, tokens)
    given = sorted(plan.rows, key=lambda row: -len(row.head) - len(row.body) - len(row.references[0]))
    lengths: dict[str, Any] = {"max_length": options.max_length, "max_answer_length": options.max_answer_length}
    items = [encode(row, tokens, kind=kind, chat=chat, **lengths) for row in given[: _LOOKED_AT * rows]]
    answers = sorted((sum(label != IGNORED for label in item["labels"]) for item in items), reverse=True)[:rows]
    times = -(-rows // len(answers))  # a batch of more rows than there are has some twice
    length = max(len(item["input_ids"]) for item in items)
    return Batch(rows, length, answers[0], sum((answers * times)[:rows]))
