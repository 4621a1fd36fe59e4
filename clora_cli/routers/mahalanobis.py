"""Negative Mahalanobis distance under the covariance that all adapters' inputs share."""

from __future__ import annotations

from dataclasses import dataclass

from clora_cli.algebra.gaussians import gaussians
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
        """Return minus half the squared distance to each adapter's mean."""
        return gaussians(prototypes.means, prototypes.covariance, self.shrinkage)
