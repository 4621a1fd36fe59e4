"""Distances to means under one covariance (layer L1)."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["gaussians"]

Map = Callable[[Tensor], Tensor]


def gaussians(means: Tensor, covariance: Tensor, shrinkage: float) -> Map:
    """Return minus half the squared Mahalanobis distance to each of several means.

    Args:
        means: Shape (mean, feature), float64.
        covariance: Shape (feature, feature), or its diagonal, float64.
        shrinkage: The share of the multiple of the identity in it, in (0, 1].

    Returns:
        A function of features, shape (input, feature), whose result has the shape (input, mean), float64.
    """
    whiten = _whitening(covariance, shrinkage)
    origin = means.mean(dim=0)  # near the data: less is lost to rounding
    white = whiten(means - origin)
    lengths = white.square().sum(dim=1)

    def similarity(features: Tensor) -> Tensor:
        vectors = whiten(features.double() - origin.to(features.device))
        squares = vectors.square().sum(dim=1, keepdim=True) + lengths.to(vectors.device)
        return vectors @ white.to(vectors.device).mT - squares / 2

    return similarity


def _whitening(covariance: Tensor, shrinkage: float) -> Map:
    """Return the map of row vectors under which the shrunk covariance becomes the identity."""
    size = len(covariance)
    ridge = shrinkage * (covariance if covariance.ndim == 1 else covariance.diagonal()).mean()
    ridge = ridge.clamp(min=torch.finfo(torch.float64).tiny ** 0.5)  # a single input has no spread at all
    if covariance.ndim == 1:
        root = ((1 - shrinkage) * covariance.clamp(min=0) + ridge).rsqrt()
        return lambda vectors: vectors * root.to(vectors.device)
    shrunk = (1 - shrinkage) * covariance + ridge * torch.eye(size, dtype=torch.float64)
    lower, problem = torch.linalg.cholesky_ex(shrunk)
    if problem or not math.isfinite(lower.sum()):
        # Noise for privacy's sake makes a covariance indefinite: what is below the ridge counts as the ridge.
        values, axes = torch.linalg.eigh(shrunk)
        turned = axes * values.clamp(min=ridge).rsqrt()
        return lambda vectors: vectors @ turned.to(vectors.device)
    return lambda vectors: torch.linalg.solve_triangular(lower.mT.to(vectors.device), vectors, upper=True, left=False)
