"""Cosine of the angle to the mean of an adapter's inputs."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional

from clora_cli.algebra.statistics import Prototypes
from clora_cli.routers import Router, Similarity

__all__ = ["Cosine"]


@dataclass(frozen=True, kw_only=True)
class Cosine(Router):
    """Cosine of the angle to the mean of an adapter's inputs.

    ``Phi(x, D) = f(x) . D / (||f(x)|| ||D||)``, in [-1, 1]; soft weights need a temperature far below 1.

    References:
        Exploiting Presentative Feature Distributions for Parameter-Efficient Continual Learning of Large Language Models,
        ICML 2025, appendix; cosine against class means as in arXiv:1804.09458.
    """

    def fit(self, prototypes: Prototypes) -> Similarity:
        """Return the cosines with each adapter's mean."""
        means = functional.normalize(prototypes.means, dim=1)

        def similarity(features: Tensor) -> Tensor:
            return functional.normalize(features.double(), dim=1) @ means.to(features.device).mT

        return similarity
