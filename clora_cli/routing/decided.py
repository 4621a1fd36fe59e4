"""The adapters and weights chosen for a batch of inputs (layer L1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from clora_cli.routing.inputs import Input

__all__ = ["Decided", "mean_over"]


@dataclass(frozen=True, eq=False)
class Decided:
    """The adapters and weights chosen for a batch of inputs.

    Attributes:
        inputs: The inputs, in order.
        sites: Deciding site to weights, shape (input, adapter); rows of 0 for inputs that abstain.
    """

    inputs: Sequence[Input]
    sites: Mapping[str, Tensor]

    @cached_property
    def weights(self) -> Tensor:
        """The mean over sites, shape (input, adapter)."""
        return mean_over(self.sites, list(self.sites))

    @cached_property
    def chosen(self) -> list[int | None]:
        """For each input the number of the adapter of the largest mean weight, the first of equals; None if it abstains."""
        best = self.weights.max(dim=1)
        pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        return [number if weight > 0 else None for number, weight in pairs]


def mean_over(weights: Mapping[str, Tensor], sites: Sequence[str]) -> Tensor:
    """Return the mean of some sites' weights, shape (input, adapter)."""
    return torch.stack([weights[site] for site in sites]).mean(dim=0)
