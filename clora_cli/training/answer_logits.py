"""Where a batch's answers are (layer L3)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from clora_cli.data.tokens import IGNORED
from clora_cli.model.output_layer import logits_at, output_only_at

if TYPE_CHECKING:
    from clora_cli.model.backbone import Backbone

__all__ = ["answer_logits", "model_inputs", "only_answers"]


def model_inputs(backbone: Backbone, batch: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Tensor]:
    """Return collated training rows as the model takes them, and their labels, on its device.

    Args:
        backbone: The base model.
        batch: What ``Collator`` makes of rows with labels.
    """
    inputs = {name: tensor.to(backbone.device) for name, tensor in batch.items()}
    labels = inputs.pop("labels")
    if backbone.kind == "seq2seq":
        inputs["decoder_input_ids"] = backbone.tokens.decoder_inputs(labels)
    return inputs, labels


@contextlib.contextmanager
def only_answers(model: nn.Module, labels: Tensor, shift: bool) -> Iterator[None]:
    """For one forward pass, compute no logits but those that ``answer_logits`` returns.

    Args:
        model: The model.
        labels: Shape (row, position), -100 where there is no answer.
        shift: Whether logits at a position predict the next one (causal) or their own (encoder-decoder).
    """
    with output_only_at(model, _predicting(labels, shift)):
        yield


def answer_logits(logits: Tensor, labels: Tensor, shift: bool) -> tuple[Tensor, Tensor]:
    """Return the logits that predict answer tokens, shape (token, vocabulary), float32 or wider, and those tokens.

    Args:
        logits: Shape (row, position, vocabulary), or (1, token, vocabulary) where ``only_answers`` were computed.
        labels: Shape (row, position), -100 where there is no answer.
        shift: Whether logits at a position predict the next one (causal) or their own (encoder-decoder).
    """
    tokens = labels[:, int(shift) :]
    tokens = tokens[tokens != IGNORED]
    found = logits_at(logits, _predicting(labels, shift))
    return found.to(torch.promote_types(found.dtype, torch.float32)), tokens


def _predicting(labels: Tensor, shift: bool) -> Tensor:
    """Return at which positions logits predict an answer token, shape (row, position), bool."""
    answers = labels != IGNORED
    return functional.pad(answers[:, 1:], (0, 1)) if shift else answers
