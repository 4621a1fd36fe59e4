"""What a training's forward passes leave out because the loss does not need it (layer L3)."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import Any

from torch import Tensor

from clora_cli.data.tokens import IGNORED
from clora_cli.model.output_layer import output_layer
from clora_cli.model.prefix import SharedPrefix
from clora_cli.options import TrainOptions
from clora_cli.training.answer_logits import only_answers
from clora_cli.training.build import Built

__all__ = ["Sparing"]


class Sparing:
    """Runs micro-batches without what is computed twice or for nothing; result and gradients are those of the whole.

    Logits are computed where answers are. What all rows begin with is run once, where no row is treated apart and nothing is
    drawn at random.

    Args:
        built: The run's model.
        options: The run's options.
        row_by_row: Tells whether layers must see every token of every row: adapters are weighed there, or layers watched.

    Attributes:
        shares: Whether a beginning may be run once.
    """

    def __init__(self, built: Built, options: TrainOptions, row_by_row: Callable[[], bool]) -> None:
        self._built, self._row_by_row = built, row_by_row
        # A divided model cannot run one pass more on one process than on the others, whose rows begin in another way.
        never = options.dropout > 0 or options.base_dropout or options.gradient_checkpointing or built.backbone.sharded
        self.shares = built.backbone.kind == "causal" and not never

    @contextlib.contextmanager
    def forward(self, inputs: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """For one forward pass, leave out what can be; gives the inputs to pass on.

        Args:
            inputs: The model's arguments and the labels.
        """
        apart = self._row_by_row()
        needed = self._after_prefix(inputs) if self.shares and not apart else dict(inputs)
        with contextlib.ExitStack() as stack:
            if not (apart and self._output_adapted):
                shift = self._built.backbone.kind == "causal"
                stack.enter_context(only_answers(self._built.model, needed["labels"], shift))
            yield needed

    def _after_prefix(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        labels: Tensor = inputs["labels"]
        given = {name: tensor for name, tensor in inputs.items() if name != "labels"}
        # The token before the first answer predicts it, so that it is a row's own.
        question = int((labels == IGNORED).all(dim=0).long().cumprod(dim=0).sum()) - 1
        length = self._prefix.length(given, question)
        after = self._prefix.after(given, length) if length else None
        return dict(inputs) if after is None else {**after, "labels": labels[:, length:]}

    @cached_property
    def _prefix(self) -> SharedPrefix:
        return SharedPrefix(self._built.model)

    @cached_property
    def _output_adapted(self) -> bool:
        model: Any = self._built.backbone.model
        layer = output_layer(model)
        return any(model.get_submodule(site) is layer for site in (*self._built.trainable, *self._built.bank.sites))
