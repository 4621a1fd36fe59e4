"""Negative Mahalanobis distance under the covariance that all adapters' inputs share."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from clora_cli.algebra.statistics import Prototypes
from clora_cli.base.intervals import check_option
from clora_cli.routers import Router, Similarity

__all__ = ["Mahalanobis"]


@dataclass(frozen=True, kw_only=True)
class Mahalanobis(Router):
    """Negative Mahalanobis distance under the covariance that all adapters' inputs share.

    ``Phi(x, D_k) = -1/2 (f(x) - mean_k)^T S^-1 (f(x) - mean_k)`` with the shrunk covariance
    ``S = (1 - shrinkage) C + shrinkage tr(C) / n I``; C is the covariance of inputs about their own adapter's mean, pooled
    over adapters from the stored second moments, which add up however the adapters came together. At temperature 1 the
    softmax is the posterior probability of equally likely Gaussians. With ``diag`` moments C is diagonal.

    Args:
        shrinkage: The share of the multiple of the identity, in (0, 1].

    References:
        Lee et al., A Simple Unified Framework for Detecting Out-of-Distribution Samples and Adversarial Attacks, 2018,
        arXiv:1807.03888, eq. 1-2: Gaussians with a tied covariance. Ledoit and Wolf, A well-conditioned estimator for
        large-dimensional covariance matrices, 2004: the shrinkage's form.
        Differs: no paper of continual learning with LoRA has it; the shrinkage is given, not estimated.
    """

    needs_second = True

    shrinkage: float = 0.01

    def __post_init__(self) -> None:
        """Check the option."""
        check_option("mahalanobis", "shrinkage", self.shrinkage, "(0, 1]")

    def fit(self, prototypes: Prototypes) -> Similarity:
        """Return minus half the squared distance to each adapter's mean; means and features are whitened alike."""
        whiten = self._whitening(prototypes.covariance)
        origin = prototypes.means.mean(dim=0)  # near the data: less is lost to rounding
        means = whiten(prototypes.means - origin)
        lengths = means.square().sum(dim=1)

        def similarity(features: Tensor) -> Tensor:
            vectors = whiten(features.double() - origin.to(features.device))
            squares = vectors.square().sum(dim=1, keepdim=True) + lengths.to(vectors.device)
            return vectors @ means.to(vectors.device).mT - squares / 2

        return similarity

    def _whitening(self, covariance: Tensor) -> Similarity:
        """Return the map of row vectors under which the shrunk covariance becomes the identity."""
        size = len(covariance)
        ridge = self.shrinkage * (covariance if covariance.ndim == 1 else covariance.diagonal()).mean()
        ridge = ridge.clamp(min=torch.finfo(torch.float64).tiny ** 0.5)  # a single input has no spread at all
        if covariance.ndim == 1:
            root = ((1 - self.shrinkage) * covariance.clamp(min=0) + ridge).rsqrt()
            return lambda vectors: vectors * root.to(vectors.device)
        shrunk = (1 - self.shrinkage) * covariance + ridge * torch.eye(size, dtype=torch.float64)
        lower, problem = torch.linalg.cholesky_ex(shrunk)
        if problem or not math.isfinite(lower.sum()):
            # Noise for privacy's sake makes a covariance indefinite: what is below the ridge counts as the ridge.
            values, axes = torch.linalg.eigh(shrunk)
            turned = axes * values.clamp(min=ridge).rsqrt()
            return lambda vectors: vectors @ turned.to(vectors.device)
        return lambda vectors: torch.linalg.solve_triangular(
            lower.mT.to(vectors.device), vectors, upper=True, left=False
        )
