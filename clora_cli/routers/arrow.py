"""Magnitude of an input along the direction that an adapter amplifies most, from its factors alone."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional

from clora_cli.algebra.statistics import Prototypes
from clora_cli.routers import Router, Similarity

__all__ = ["Arrow"]


@dataclass(frozen=True, kw_only=True)
class Arrow(Router):
    """Magnitude of an input along the direction that an adapter amplifies most, from its factors alone.

    ``Phi(h, k) = |<h, v_k>|`` with the mean h of what a layer takes in over the prompt's tokens and the first right singular vector
    v_k of ``B A`` there. It needs no row of any task and no distribution: adapters from anywhere can be chosen among. An
    adapter's size does not matter. What all inputs have in common counts most, so check how often it is right
    (``clora route``): on the bundled model it was below chance.

    References:
        Ostapenko et al., Towards Modular LLMs by Building and Reusing a Library of LoRAs, 2024, arXiv:2405.11157: Arrow.
        Differs: one choice an input and layer, by the mean over its prompt's tokens; Arrow chooses for every token.
    """

    reads = "factors"

    def fit(self, prototypes: Prototypes) -> Similarity:
        """Return the magnitudes along each adapter's direction, which stands in the place of a mean."""
        directions = functional.normalize(prototypes.means, dim=1)

        def similarity(features: Tensor) -> Tensor:
            return (features.double() @ directions.to(features.device).mT).abs()

        return similarity
