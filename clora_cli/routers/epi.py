"""Negative Mahalanobis distance to the nearest of an adapter's means, one a class or cluster of its inputs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from clora_cli.algebra.gaussians import gaussians
from clora_cli.algebra.statistics import Prototypes
from clora_cli.base.intervals import check_option
from clora_cli.routers import Router, Similarity

__all__ = ["Epi"]


@dataclass(frozen=True, kw_only=True)
class Epi(Router):
    """Negative Mahalanobis distance to the nearest of an adapter's means, one a class or cluster of its inputs.

    ``Phi(x, D_k) = max_c -1/2 (f(x) - m_c)^T S^-1 (f(x) - m_c)`` over the means m_c of adapter k, which ``clora stat-features
    --means class`` takes, or ``--means 8`` by k-means. S is mahalanobis's, of inputs about their own m_c, pooled over all adapters.
    Any package will do: an adapter with one mean goes by that, and where not all have the same second moments S is the identity.

    Args:
        shrinkage: The share of the multiple of the identity in S, in (0, 1].

    References:
        Wang et al., Rehearsal-free Continual Language Learning via Efficient Parameter Isolation (EPI), ACL 2023: one mean a class and
        one covariance for all tasks. arXiv:1807.03888: Gaussians with a tied covariance.
        Differs: EPI reads one feature of a frozen encoder; here each site decides by its own, or one layer for all
        (``--route-layer last``).
        Differs: inputs count alike in S, where EPI takes the mean of the tasks' covariances; and S is shrunk, without which few rows
        give none that can be inverted.
        Differs: k means and the identity are not the paper's.
    """

    shrinkage: float = 0.01

    def __post_init__(self) -> None:
        """Check the option."""
        check_option("epi", "shrinkage", self.shrinkage, "(0, 1]")

    def fit(self, prototypes: Prototypes) -> Similarity:
        """Return minus half the squared distance to each adapter's nearest mean."""
        means = torch.cat([part.means for part in prototypes.groups])
        sizes = [len(part.means) for part in prototypes.groups]
        alike = len(prototypes.seconds) == 1 and "none" not in prototypes.seconds
        spread = prototypes.within if alike else torch.ones_like(means[0])
        each = gaussians(means, spread, self.shrinkage)

        def similarity(features: Tensor) -> Tensor:
            return torch.stack([near.amax(dim=1) for near in torch.split(each(features), sizes, dim=1)], dim=1)

        return similarity
