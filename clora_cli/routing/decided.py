"""The adapters and weights chosen for a batch of inputs (layer L1)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from clora_cli.base.errors import CloraError
from clora_cli.routing.inputs import Input

__all__ = ["Decided", "check_finite", "mean_over", "named_weights"]


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

    def entries(self, names: Sequence[str], *, per_site: bool = False) -> Iterator[dict[str, Any]]:
        """Yield each input's fields with the name of its adapter, None for the base model, and its weights by adapter.

        Args:
            names: The adapters' names.
            per_site: Also tell the weights at each site.
        """
        for row, (one, number) in enumerate(zip(self.inputs, self.chosen, strict=True)):
            name = None if number is None else names[number]
            entry = {**one.fields, "adapter": name, "weights": named_weights(self.weights[row], names)}
            if per_site:
                entry["sites"] = {site: named_weights(weights[row], names) for site, weights in self.sites.items()}
            yield entry


def mean_over(weights: Mapping[str, Tensor], sites: Sequence[str]) -> Tensor:
    """Return the mean of some sites' weights, shape (input, adapter)."""
    return torch.stack([weights[site] for site in sites]).mean(dim=0)


def check_finite(weights: Mapping[str, Tensor], where: str) -> None:
    """Refuse weights that come from features that are not finite.

    Raises:
        CloraError: With the place that the first input came from.
    """
    if not all(one.isfinite().all() for one in weights.values()):
        raise CloraError(
            f"{where}: the base model's features are not finite; try --dtype float32", code="features-not-finite"
        )


def named_weights(weights: Tensor, names: Sequence[str], most: int = 0) -> dict[str, float]:
    """Return one input's weights by adapter, the largest first, those of the same size by stage; zeros are left out.

    Args:
        weights: Shape (adapter,).
        names: The adapters' names.
        most: So many at most; 0 for all.
    """
    if 0 < most < len(names):
        kept = weights.topk(most).indices.sort().values
        return named_weights(weights[kept], [names[number] for number in kept.tolist()])
    values = weights.tolist()
    order = sorted(range(len(names)), key=lambda number: -values[number])
    return {names[number]: rounded for number in order if (rounded := round(values[number], 6))}
