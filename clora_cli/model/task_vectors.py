"""Task vectors: points in the space of input embeddings that a task's inputs are close to (layer L1).

An input's embedding E(x) is the mean of its prompt's frozen token embeddings, brought to norm 1. It takes the base model's
table of tokens and nothing else, so that vectors trained in different packages over one base model compare.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from clora_cli.base.errors import ArtifactError
from clora_cli.model.backbone import Backbone
from clora_cli.model.features import read_features
from clora_cli.store.adapter_folder import AdapterFolder
from clora_cli.store.side_files import STATE, side_file
from clora_cli.store.tensors import opened

__all__ = ["KEY", "embedding_site", "embeddings", "learn_task_vector", "read_task_vector", "routing_loss", "table_of"]

KEY = "task_vector"  # its name in state.clora


def embedding_site(backbone: Backbone) -> str:
    """Return the module path of the table of token embeddings that prompts go through."""
    return table_of(backbone.model, backbone.kind)


def table_of(model: Any, kind: str) -> str:
    """Return ``embedding_site`` of a model, which may be without weights.

    Args:
        model: The base model.
        kind: ``causal``, ``seq2seq``, whose encoder takes the prompts, or ``encoder``.
    """
    table = (model.get_encoder() if kind == "seq2seq" else model).get_input_embeddings()
    # A module that stands in several places is named by the first of them.
    return next(str(name) for name, module in model.named_modules() if module is table)


def embeddings(backbone: Backbone, ids: Sequence[list[int]]) -> Tensor:
    """Return E(x) of prompts: the mean of their tokens' frozen embeddings, shape (prompt, hidden), each of norm 1.

    Args:
        backbone: The base model; no block of it is run.
        ids: Each prompt's tokens, at least one prompt.

    Returns:
        float32, on the CPU.
    """
    site, order, found = embedding_site(backbone), [], []
    for rows, features in read_features(backbone, ids, [site]):
        order += rows
        found.append(functional.normalize(features[site], dim=1).cpu())
    return torch.cat(found)[torch.tensor(order).argsort()]


def routing_loss(vector: Tensor, inputs: Tensor, past: Tensor, margin: float) -> Tensor:
    """Return the mean loss of inputs of a task under its vector.

    ``softplus(s_neg - s_pos + margin)`` with ``s_pos = <E(x), v>`` and ``s_neg`` the largest ``<E(x), v_j>`` over earlier
    tasks' vectors (CAST, eq. 8-10); ``1 - s_pos`` where there are none. Similarities are cosines, so that the gradient has
    no part along v: what remains after a step and its projection is what the step was meant to do.

    Args:
        vector: v, shape (hidden,), of any length above 0.
        inputs: E(x), shape (input, hidden), each of norm 1.
        past: Earlier tasks' vectors, shape (task, hidden), each of norm 1; (0, hidden) for the first task.
        margin: At least 0.
    """
    positive = inputs @ functional.normalize(vector, dim=0)
    if not len(past):
        return (1 - positive).mean()
    hardest = (inputs @ past.mT).amax(dim=1)
    return functional.softplus(hardest - positive + margin).mean()


def learn_task_vector(
    embeddings: Tensor,
    past: Tensor,
    batches: Sequence[Sequence[int]],
    *,
    lr: float = 0.1,
    margin: float = 0.1,
    seed: int = 0,
) -> Tensor:
    """Learn a task's vector by ``routing_loss``.

    Starts at a random point of the sphere and returns to the sphere after every step; Adam without weight decay, its rate
    falling linearly to 0. The vector shares no parameter with a LoRA: trained beside one, with an optimiser state of its own
    and the same batches, it would be the same.

    CAST's rate is 0.01. A step then moves the vector by 0.01 in each coordinate at most, and forty steps do not bring it
    from a random point to its inputs; a rate of 0.1 does, and falling to 0 it is as near in the end.

    Args:
        embeddings: E(x) of the task's training rows, shape (row, hidden), each of norm 1.
        past: Earlier tasks' vectors, shape (task, hidden), which stay as they are; (0, hidden) for the first task.
        batches: The rows of each step, at least one step.
        lr: Learning rate of the first step, above 0.
        margin: At least 0.
        seed: Of the starting point.

    Returns:
        Shape (hidden,), float32, of norm 1, on the CPU.
    """
    inputs, past = embeddings.cpu().double(), past.cpu().double()
    start = torch.randn(inputs.shape[1], generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    vector = functional.normalize(start, dim=0).requires_grad_()
    optimizer = torch.optim.Adam([vector], lr=lr)
    for step, rows in enumerate(batches):
        optimizer.param_groups[0]["lr"] = lr * (1 - step / len(batches))
        with torch.enable_grad():
            loss = routing_loss(vector, inputs[list(rows)], past, margin)
        (vector.grad,) = torch.autograd.grad(loss, vector)
        optimizer.step()
        with torch.no_grad():
            vector.div_(vector.norm())
    return functional.normalize(vector.detach(), dim=0).float()


def read_task_vector(member: AdapterFolder) -> Tensor | None:
    """Read an adapter's task vector and nothing else of its state; None if it has none.

    Returns:
        Shape (hidden,), float32.

    Raises:
        ArtifactError: If ``state.clora`` is damaged, or the vector is not what it should be.
    """
    path = side_file(member.path, STATE)
    if not path.is_file():
        return None
    with opened(path, "tensor file", "restore it or train the adapter again") as file:
        vector = file.get_tensor(KEY) if KEY in file.keys() else None
    if vector is not None and (
        vector.ndim != 1
        or not vector.is_floating_point()
        or vector.element_size() < 2
        or not bool(vector.isfinite().all())
        or not bool(vector.any())
    ):
        raise ArtifactError(
            f"adapter {member.path} is damaged: its task vector is no direction; train it again",
            code="task-vector-damaged",
        )
    return None if vector is None else vector.float()
