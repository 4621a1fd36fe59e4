"""What a training's forward passes leave out because the loss does not need it (layer L3)."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import Any

from clora_cli.model.output_layer import output_layer
from clora_cli.training.answer_logits import only_answers
from clora_cli.training.build import Built

__all__ = ["Sparing"]


class Sparing:
    """Runs micro-batches with logits at the answers' positions alone; result and gradients are those of the whole.

    Args:
        built: The run's model.
        row_by_row: Tells whether layers must see every token of every row: adapters are weighed there, or layers watched.
    """

    def __init__(self, built: Built, row_by_row: Callable[[], bool]) -> None:
        self._built, self._row_by_row = built, row_by_row

    @contextlib.contextmanager
    def forward(self, inputs: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """For one forward pass, leave out what can be; gives the inputs to pass on.

        Args:
            inputs: The model's arguments and the labels.
        """
        with contextlib.ExitStack() as stack:
            if not (self._output_adapted and self._row_by_row()):
                shift = self._built.backbone.kind == "causal"
                stack.enter_context(only_answers(self._built.model, inputs["labels"], shift))
            yield dict(inputs)

    @cached_property
    def _output_adapted(self) -> bool:
        model: Any = self._built.backbone.model
        layer = output_layer(model)
        return any(model.get_submodule(site) is layer for site in (*self._built.trainable, *self._built.bank.sites))
