"""Weights over adapters that their method learned with them (layer L1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from clora_cli.base import registry
from clora_cli.base.errors import ArtifactError, MismatchError, translated
from clora_cli.options import RouteOptions
from clora_cli.routing.weights import Routing
from clora_cli.store.adapter_folder import AdapterFolder

__all__ = ["LearnedWeights", "weighing_method"]


class LearnedWeights(Routing):
    """Weights over adapters as their method's ``weigh`` gives them, from inputs' embeddings; no softmax, no top-k.

    Args:
        method: The method.
        members: The adapters, whose ``state.clora`` it reads.
        site: The base model's table of token embeddings.
        options: How; ``threshold`` as for ``Routing``.
        threshold: See ``Routing``.
    """

    def __init__(
        self,
        method: Any,
        members: Sequence[AdapterFolder],
        site: str,
        options: RouteOptions,
        threshold: float | None = None,
    ) -> None:
        self.options, self.threshold, self.similarity = options, threshold, "learned"
        states = [member.state() for member in members]

        def weigh(vectors: Tensor) -> Tensor:
            with torch.no_grad():
                return method.weigh(states, functional.normalize(vectors, dim=1))  # type: ignore[no-any-return]

        self._similarities = {site: weigh}

    def _weights(self, similarities: Tensor, top_k: int, always: int | None) -> Tensor:
        return similarities.float()


def weighing_method(member: AdapterFolder) -> Any:
    """Return the method of an adapter, its options bound, that weighs adapters.

    Raises:
        MismatchError: If there is none.
        ArtifactError: If it has other options now.
    """
    recorded = member.manifest.method.options if member.manifest else {}
    for name, options in recorded.items():
        plugin = registry.load("methods", name)
        with translated(
            f"adapter {member.path}: method {name} has other options now", ArtifactError, code="method-options-changed"
        ):
            method = plugin(**options)
        if method.combine == "learned":
            return method
    raise MismatchError(
        f"adapter {member.path} was trained with a method that learns no weights; choose another way to combine",
        code="method-learns-no-weights",
    )
