"""Negative Minkowski distance to the mean of an adapter's inputs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from clora_cli.algebra.statistics import Prototypes
from clora_cli.base.intervals import check_option
from clora_cli.routers import Router, Similarity

__all__ = ["Minkowski"]


@dataclass(frozen=True, kw_only=True)
class Minkowski(Router):
    """Negative Minkowski distance to the mean of an adapter's inputs.

    ``Phi(x, D) = -(sum_k |f(x)_k - D_k|^p)^(1/p)`` with the mean D of an adapter's inputs: the Manhattan distance for
    p = 1, the Euclidean for p = 2. A single odd coordinate counts for less the smaller p is.

    Args:
        p: The order of the distance, at least 1.

    References:
        Rebuffi et al., iCaRL: Incremental Classifier and Representation Learning, 2016, arXiv:1611.07725, eq. 2, with
        tasks for classes.
        Differs: there the distance is Euclidean and the vectors have length 1.
    """

    p: float = 1.0

    def __post_init__(self) -> None:
        """Check the option."""
        check_option("minkowski", "p", self.p, "[1, inf)")

    def fit(self, prototypes: Prototypes) -> Similarity:
        """Return minus the distance to each adapter's mean."""
        means = prototypes.means

        def similarity(features: Tensor) -> Tensor:
            return -torch.cdist(
                features.double(), means.to(features.device), p=self.p, compute_mode="donot_use_mm_for_euclid_dist"
            )

        return similarity
