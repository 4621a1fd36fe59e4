"""How much memory a training step of a model takes (layer L1): its forward pass, run without any weights or numbers.

On PyTorch's meta device every operation knows the shapes that it would keep for the backward pass, and keeps nothing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional
from transformers import AttentionInterface

from clora_cli.model.output_layer import output_layer
from clora_cli.model.sharding import block_modules

__all__ = ["Batch", "Footprint", "footprint"]

_ATTENTION = "clora-kept"
_OUTSIDE = -1  # the number of what no block keeps


@dataclass(frozen=True)
class Batch:
    """What one forward pass takes.

    Attributes:
        rows: Number of rows.
        length: Tokens of a row, the answer's among them in causal models.
        answer: Tokens of an answer, which an encoder-decoder's decoder takes.
        answers: Tokens of all answers together.
    """

    rows: int
    length: int
    answer: int
    answers: int


@dataclass(frozen=True)
class Footprint:
    """What one forward pass leaves in memory, in bytes.

    Attributes:
        kept: What the blocks and all around them keep for the backward pass, but for logits.
        recomputed: The same where blocks keep what they take in alone, and are run again one at a time.
        logits: Logits, their logarithms and their gradients, at the answers' positions.
    """

    kept: int
    recomputed: int
    logits: int


def footprint(model: Any, batch: Batch) -> Footprint:
    """Return what a model's forward pass leaves in memory.

    Attention is taken to be of the fused kind, which keeps no matrix of tokens by tokens but the mask.

    Args:
        model: On the meta device, with what is trained already around it, in training mode.
        batch: What it takes.
    """
    weights = {one.untyped_storage()._cdata for one in model.parameters()}
    held: dict[int, tuple[Tensor, int]] = {}
    with _blocks(model) as now, _answers_alone(model, batch.answers), _fused(model):

        def keep(tensor: Tensor) -> Tensor:
            if (storage := tensor.untyped_storage()._cdata) not in weights:
                held.setdefault(storage, (tensor, now.number))  # the tensor itself, so that its number stays taken
            return tensor

        with saved_tensors_hooks(keep, lambda tensor: tensor):
            logits = _passed(model, batch)
    width = logits.shape[-1]
    of_logits = [one for one, _ in held.values() if one.shape[-1:] == (width,) and one.numel() == batch.answers * width]
    sizes: dict[int, int] = {}
    for tensor, block in held.values():
        sizes[block] = sizes.get(block, 0) + tensor.untyped_storage().nbytes()
    logit_bytes = sum(one.untyped_storage().nbytes() for one in of_logits)
    sizes[_OUTSIDE] = sizes.get(_OUTSIDE, 0) - logit_bytes
    inner = [size for block, size in sizes.items() if block != _OUTSIDE]
    return Footprint(
        kept=sum(sizes.values()),
        recomputed=sizes[_OUTSIDE] + sum(now.inputs.values()) + max(inner, default=0),
        logits=logit_bytes + 2 * batch.answers * width * torch.float32.itemsize,  # the gradients of both, for a moment
    )


def _passed(model: Any, batch: Batch) -> Tensor:
    """Run the model and its loss; return the logits."""
    ids = torch.zeros(batch.rows, batch.length, dtype=torch.long, device="meta")
    given = {"input_ids": ids}
    if getattr(model.config, "is_encoder_decoder", False):
        given["decoder_input_ids"] = ids.new_zeros(batch.rows, batch.answer)
    logits: Tensor = model(**given, use_cache=False)["logits"].float().flatten(0, -2)
    functional.cross_entropy(logits, ids.new_zeros(len(logits)), reduction="sum")
    return logits


class _Now:
    """Which block runs, and what the blocks take in."""

    def __init__(self) -> None:
        self.number, self.inputs = _OUTSIDE, dict[int, int]()

    def enter(self, number: int, given: tuple[Any, ...]) -> None:
        self.number = number
        self.inputs[number] = sum(one.nbytes for one in given if isinstance(one, Tensor))

    def leave(self) -> None:
        self.number = _OUTSIDE


@contextlib.contextmanager
def _blocks(model: nn.Module) -> Iterator[_Now]:
    now = _Now()
    with contextlib.ExitStack() as hooks:
        for number, block in enumerate(block_modules(model)):
            before = block.register_forward_pre_hook(lambda _, given, number=number: now.enter(number, given))
            after = block.register_forward_hook(lambda *_: now.leave())
            hooks.callback(before.remove)
            hooks.callback(after.remove)
        yield now


@contextlib.contextmanager
def _answers_alone(model: Any, answers: int) -> Iterator[None]:
    """Compute so many logits: ``output_only_at``, whose positions are numbers, cannot be had here."""
    layer = output_layer(model)

    def cut(module: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
        return given[0].reshape(1, -1, given[0].shape[-1])[:, :answers], *given[1:]

    handle = layer.register_forward_pre_hook(cut) if layer is not None else None
    yield
    if handle is not None:
        handle.remove()


class _Kept(torch.autograd.Function):
    """What fused attention keeps: queries, keys, values, mask, output and a number for each query."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
        rows, heads, length, _ = query.shape
        output = query.new_empty(rows, length, heads, value.shape[-1])
        sums = query.new_empty(rows, heads, length, dtype=torch.float32)
        ctx.save_for_backward(query, key, value, output, mask, sums)
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        raise NotImplementedError("nothing is computed on the meta device")


def _attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, *_: Any, **given: Any
) -> tuple[Tensor, None]:
    rows, heads, length = query.shape[:3]
    # What is added to the scores is one for all heads, but for positions in T5 and its kin.
    mask = query.new_empty(rows, 1 if given.get("position_bias") is None else heads, length, key.shape[2])
    repeated = (one.repeat_interleave(heads // key.shape[1], dim=1) for one in (key, value))
    output: Tensor = _Kept.apply(query, *repeated, mask)  # type: ignore[no-untyped-call]
    return output, None


@contextlib.contextmanager
def _fused(model: Any) -> Iterator[None]:
    """Let attention keep what a fused kernel keeps, in models that let it be chosen."""
    AttentionInterface.register(_ATTENTION, _attention)
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    with contextlib.suppress(ValueError, AttributeError, NotImplementedError):
        base.set_attn_implementation(_ATTENTION)
    yield
