"""Moments of feature vectors that add up exactly (layer L1): counts, means and second moments of parts make the whole's."""

from __future__ import annotations

import functools
import operator
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

__all__ = ["SECOND_MOMENTS", "Moments", "SecondMoment", "pooled_covariance"]

SecondMoment = Literal["none", "diag", "full"]
SECOND_MOMENTS: tuple[SecondMoment, ...] = ("none", "diag", "full")


@dataclass(frozen=True, eq=False)
class Moments:
    """What a set of feature vectors leaves behind: aggregates, no vector of its own.

    Two sets' moments add up to those of their union, whatever the order, to float64's rounding.

    Attributes:
        count: Number of vectors, at least 0.
        mean: Their mean, shape (feature,), float64.
        scatter: Their squared deviations from the mean, summed: shape (feature,), or the products of all pairs of
            deviations, shape (feature, feature); None if second moments are not kept. float64.

    Example:
        >>> left, right = Moments.of(torch.tensor([[1.0], [3.0]]), "diag"), Moments.of(torch.tensor([[8.0]]), "diag")
        >>> whole = left + right
        >>> whole.count, whole.mean.item(), whole.scatter.item()
        (3, 4.0, 26.0)
    """

    count: int
    mean: Tensor
    scatter: Tensor | None = None

    @classmethod
    def of(cls, vectors: Tensor, second: SecondMoment = "none") -> Moments:
        """Return the moments of vectors of shape (vector, feature), of which there is at least one."""
        vectors = vectors.double()
        mean = vectors.mean(dim=0)
        deviations = vectors - mean
        if second == "none":
            return cls(len(vectors), mean)
        scatter = deviations.square().sum(dim=0) if second == "diag" else deviations.mT @ deviations
        return cls(len(vectors), mean, scatter)

    def __add__(self, other: Moments) -> Moments:
        """Return the moments of both sets together.

        References:
            Chan, Golub and LeVeque, Updating Formulae and a Pairwise Algorithm for Computing Sample Variances, 1979.
        """
        count = self.count + other.count
        apart = other.mean - self.mean
        mean = self.mean + apart * (other.count / max(count, 1))
        if self.scatter is None or other.scatter is None:
            return Moments(count, mean)
        between = apart.square() if self.scatter.ndim == 1 else torch.outer(apart, apart)
        weight = self.count * other.count / max(count, 1)
        return Moments(count, mean, self.scatter + other.scatter + weight * between)

    @property
    def second(self) -> SecondMoment:
        """Which second moments are kept."""
        return "none" if self.scatter is None else "diag" if self.scatter.ndim == 1 else "full"


def pooled_covariance(moments: Iterable[Moments]) -> Tensor:
    """Return the covariance of vectors about their own set's mean, over all sets: the scatters' sum over the counts'.

    Args:
        moments: One or more, of one feature size, all with the same second moments.

    Returns:
        Shape (feature,) or (feature, feature), float64.
    """
    found = list(moments)
    total = functools.reduce(operator.add, (one.scatter for one in found if one.scatter is not None))
    return total / max(sum(one.count for one in found), 1)
