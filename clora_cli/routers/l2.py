"""Negative Euclidean distance to the mean of an adapter's inputs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from clora_cli.algebra.statistics import Prototypes
from clora_cli.routers import Router, Similarity

__all__ = ["L2"]


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

        def similarity(features: Tensor) -> Tensor:
            return -torch.cdist(
                features.double(), means.to(features.device), compute_mode="donot_use_mm_for_euclid_dist"
            )

        return similarity
