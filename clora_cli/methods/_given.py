"""What a run gives to its methods, and what they ask of it, as records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

__all__ = ["Activity", "Batch", "Trimming"]


@dataclass(frozen=True, eq=False)
class Batch:
    """A micro-batch after its forward pass.

    Attributes:
        inputs: The model's arguments and the labels.
        rows: Numbers of the training rows, shape (row,): the task's own, then those of the memory.
        logits: Of the model that is trained, at the answers' positions, shape (token, vocabulary), float32.
        answers: The right tokens there, shape (token,).
        tokens: Answer tokens of the whole optimizer step, over all its micro-batches and processes.
    """

    inputs: Mapping[str, Tensor]
    rows: Tensor
    logits: Tensor
    answers: Tensor
    tokens: Tensor | int


@dataclass(frozen=True, eq=False)
class Activity:
    """How strongly the layers answered in one optimizer step, at all sites of one shape, stacked.

    Attributes:
        sites: The sites.
        a: Mean magnitude of each output of ``lora_A`` over the step's tokens without padding, shape (site, rank), float32.
        b: The same of the whole adapted layer, base and adapters together, shape (site, out).
    """

    sites: Sequence[str]
    a: Tensor
    b: Tensor


@dataclass(frozen=True, kw_only=True)
class Trimming:
    """How the new adapter is confined to entries of ``lora_B`` that no other adapter of the package owns.

    Training begins with a warm-up, in which every such entry may move. A trim of how far each of them moved says which stay
    the adapter's own; the others go back to zero, and nothing but the mask's entries moves from then on.

    Attributes:
        trim: A trim, with its options after commas: ``knee``, ``density,density=0.05``.
        scope: Whether all entries of the adapter compete with one another (``all``), or those of each site (``site``).
        warmup: Length of the warm-up in passes over the training rows, above 0; at most half of the run.
        warmup_lr: The learning rate of the warm-up over that of the run, in (0, 1].
        most: The share of all entries that the adapter may own, in (0, 1]: the largest of those that the trim keeps.
    """

    trim: str = "knee"
    scope: Literal["all", "site"] = "all"
    warmup: float = 0.5
    warmup_lr: float = 1.0
    most: float = 1.0
