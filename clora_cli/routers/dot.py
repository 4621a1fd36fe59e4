"""Dot product with the mean of an adapter's inputs, scaled as attention scales it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from clora_cli.algebra.statistics import Prototypes
from clora_cli.routers import Router, Similarity

__all__ = ["Dot"]


@dataclass(frozen=True, kw_only=True)
class Dot(Router):
    """Dot product with the mean of an adapter's inputs, scaled as attention scales it.

    ``Phi(x, D) = f(x) . D / sqrt(out)`` with the layer's output width (eq. 5). Long means win over near ones.

    References:
        Exploiting Presentative Feature Distributions for Parameter-Efficient Continual Learning of Large Language Models,
        ICML 2025, eq. 5; the scaling is that of arXiv:1706.03762.
    """

    def fit(self, prototypes: Prototypes) -> Similarity:
        """Return the scaled products with each adapter's mean."""
        means = prototypes.means

        def similarity(features: Tensor) -> Tensor:
            products: Tensor = features.double() @ means.to(features.device).mT
            return products / math.sqrt(means.shape[1])

        return similarity
