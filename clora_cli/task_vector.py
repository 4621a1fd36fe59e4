"""Task vectors: points in the space of input embeddings that inputs of a task lie near to (layer L1)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from clora_cli.backbone import Backbone

__all__ = ["KEY", "embedding_site", "embeddings", "learn_task_vector"]

KEY = "task_vector"  # its name in state.safetensors


def embedding_site(backbone: Backbone) -> str:
    """Return the module path of the table of token embeddings that prompts go through."""
    raise NotImplementedError


def embeddings(backbone: Backbone, ids: Sequence[Sequence[int]]) -> Tensor:
    """Return E(x) of prompts: the mean of their tokens' frozen embeddings, shape (prompt, hidden), each of norm 1, float32."""
    raise NotImplementedError


def learn_task_vector(
    embeddings: Tensor,
    past: Tensor,
    batches: Sequence[Sequence[int]],
    *,
    lr: float = 1e-2,
    margin: float = 0.1,
    seed: int = 0,
) -> Tensor:
    """Learn a task's vector, shape (hidden,), of norm 1 (CAST, eq. 8-10)."""
    raise NotImplementedError
