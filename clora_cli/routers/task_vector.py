"""Cosine of the angle between an input's embedding and an adapter's task vector."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional

from clora_cli.algebra.statistics import Prototypes
from clora_cli.routers import Router, Similarity

__all__ = ["TaskVector"]


@dataclass(frozen=True, kw_only=True)
class TaskVector(Router):
    """Cosine of the angle between an input's embedding and an adapter's task vector.

    ``Phi(x, k) = <E(x), v_k>`` in [-1, 1] (eq. 11) with E(x) the mean of the prompt's frozen token embeddings at norm 1. Needs
    adapters that have a task vector, which ``clora train-task --method cast`` trains, and no feature distribution; soft
    weights need a temperature far below 1.

    References:
        One LoRA for All: Unlocking Latent Capacity of LoRA for Continual Adaptation (CAST), anonymous ACL submission, eq. 11;
        inputs that find learned keys by cosine are arXiv:2112.08654's (L2P).
        Differs: E is not published; this is the plainest that needs no block of the model.
    """

    reads = "task-vector"

    def fit(self, prototypes: Prototypes) -> Similarity:
        """Return the cosines with each adapter's vector, which stands in the place of a mean."""
        vectors = functional.normalize(prototypes.means, dim=1)

        def similarity(features: Tensor) -> Tensor:
            return functional.normalize(features.double(), dim=1) @ vectors.to(features.device).mT

        return similarity
