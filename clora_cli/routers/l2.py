"""Negative Euclidean distance to the mean of an adapter's inputs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from clora_cli.algebra.statistics import Prototypes
from clora_cli.routers import Router, Similarity

__all__ = ["L2"]

_MANY = 256  # adapters from which on one matrix product finds the nearest ones
_NEAREST = 32  # of which the distance is then summed term by term


@dataclass(frozen=True, kw_only=True)
class L2(Router):
    """Negative Euclidean distance to the mean of an adapter's inputs.

    ``Phi(x, D) = -||f(x) - D||_2`` with the feature f(x) = W h(x) and the mean D of an adapter's inputs (eq. 4).

    References:
        Exploiting Presentative Feature Distributions for Parameter-Efficient Continual Learning of Large Language Models,
        ICML 2025, eq. 4; the nearest class mean of arXiv:1611.07725 (iCaRL), with tasks for classes.
    """

    def fit(self, prototypes: Prototypes) -> Similarity:
        """Return minus the distance to each adapter's mean."""
        means = prototypes.means
        return _by_product(means) if len(means) > _MANY else lambda features: -_distances(features.double(), means)


def _distances(vectors: Tensor, means: Tensor) -> Tensor:
    return torch.cdist(vectors, means.to(vectors.device), compute_mode="donot_use_mm_for_euclid_dist")


def _by_product(means: Tensor) -> Similarity:
    """Return minus the distance to each of many means.

    A product in float32 reads half the bytes, which is what many means cost; it rounds distances to about 1e-6 of the vectors'
    lengths. Of the nearest adapters, where that counts, they are summed term by term in float64: equal means stay exactly as
    near, and what lies on a mean has the distance 0.
    """
    origin = means.mean(dim=0)  # near the data: less is lost to rounding
    centred = (means - origin).float()
    lengths = centred.square().sum(dim=1)

    def similarity(features: Tensor) -> Tensor:
        vectors, device = features.double(), features.device
        moved = (vectors - origin.to(device)).float()
        squares = (moved @ centred.to(device).mT).mul_(-2).add_(lengths.to(device))
        squares += moved.square().sum(dim=1, keepdim=True)
        nearest = squares.topk(_NEAREST, dim=1, largest=False).indices
        exact = (means.to(device)[nearest] - vectors[:, None]).square().sum(dim=2)
        return squares.clamp_(min=0).double().scatter_(1, nearest, exact).sqrt_().neg_()

    return similarity
