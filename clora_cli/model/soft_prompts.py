"""Soft prompts in a base model's forward pass (layer L1).

A virtual token is a token like any other, but for its number, which lies beyond the model's vocabulary, and its vector, which comes
from a soft prompt instead of the model's table. So all that holds for tokens holds for soft prompts: which positions they have, what
padding is, what texts have in common and is read once, that answers are generated from a cache.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.hooks import RemovableHandle

from clora_cli.base.errors import MismatchError
from clora_cli.model.placement import check_placement
from clora_cli.model.task_vectors import table_of

__all__ = ["SoftPrompts"]


class SoftPrompts:
    """Gives virtual tokens their vectors, through hooks on the table of token embeddings; the model itself stays untouched.

    Args:
        model: The base model. See ``check_placement``.
        kind: ``causal``, ``seq2seq``, whose encoder takes the prompts, or ``encoder``.

    Attributes:
        first: The number of the first virtual token.
        width: Entries of a token's vector.
    """

    def __init__(self, model: Any, kind: str) -> None:
        check_placement(model)
        self._table: nn.Module = model.get_submodule(table_of(model, kind))
        self.first, self.width = self._table.weight.shape
        self._handles: list[RemovableHandle] = []
        self._virtual: Tensor | None = None

    def activate(self, vectors: Callable[[], Tensor] | Tensor | None) -> None:
        """Replace the virtual tokens in use.

        Args:
            vectors: Shape (token, width), of any type and on any device; or a function that returns them, called in each forward
                pass, whose result may carry gradients; None for no virtual tokens.

        Raises:
            MismatchError: If the vectors are not as wide as the model's own.
        """
        for handle in self._handles:
            handle.remove()
        self._handles = []
        if vectors is None:
            return
        give = functools.partial(self._fitting, vectors) if isinstance(vectors, Tensor) else vectors
        give()  # now rather than in the midst of a pass

        def hide(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            ids = inputs[0]
            self._virtual = ids - self.first
            return ids.masked_fill(self._virtual >= 0, 0), *inputs[1:]

        def show(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
            virtual, self._virtual = self._virtual, None
            if virtual is None or virtual.shape != output.shape[:-1]:
                raise RuntimeError("a table of embeddings was given something else than tokens")
            chosen = functional.embedding(virtual.clamp(min=0), give().to(output))
            return torch.where((virtual >= 0)[..., None], chosen, output)

        self._handles = [self._table.register_forward_pre_hook(hide), self._table.register_forward_hook(show)]

    def _fitting(self, vectors: Tensor) -> Tensor:
        if vectors.shape[1:] != (self.width,):
            raise MismatchError(
                f"a soft prompt has vectors of {vectors.shape[1]} numbers, and the base model's tokens have {self.width}; "
                "give the base model that it was trained with",
                code="soft-prompt-width-differs",
            )
        return vectors
