"""Moments of feature vectors that add up exactly (layer L1): counts, means and second moments of parts make the whole's."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

__all__ = ["SECOND_MOMENTS", "Groups", "Moments", "Prototypes", "SecondMoment"]

SecondMoment = Literal["none", "diag", "full"]
SECOND_MOMENTS: tuple[SecondMoment, ...] = ("none", "diag", "full")


@dataclass(frozen=True, eq=False)
class Groups:
    """Sizes and means of the groups that a set of vectors is divided into, such as those of its classes.

    Attributes:
        counts: Number of vectors of each, shape (group,), int64.
        means: Shape (group, feature), float64.
    """

    counts: Tensor
    means: Tensor


@dataclass(frozen=True, eq=False)
class Moments:
    """What is kept of a set of feature vectors: aggregates, no single vector.

    Two sets' moments add up to those of their union, whatever the order, to float64's rounding.

    Attributes:
        count: Number of vectors, at least 0.
        mean: Their mean, shape (feature,), float64.
        scatter: Their squared deviations from the mean, summed: shape (feature,), or the products of all pairs of
            deviations, shape (feature, feature); None if second moments are not kept. float64.
        groups: Their groups; None if they are one.

    Example:
        >>> left, right = Moments.of(torch.tensor([[1.0], [3.0]]), "diag"), Moments.of(torch.tensor([[8.0]]), "diag")
        >>> whole = left + right
        >>> whole.count, whole.mean.item(), whole.scatter.item()
        (3, 4.0, 26.0)
    """

    count: int
    mean: Tensor
    scatter: Tensor | None = None
    groups: Groups | None = None

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

    @property
    def parts(self) -> Groups:
        """The groups; one of all vectors where there are none."""
        return self.groups or Groups(torch.tensor([self.count]), self.mean[None])

    def __add__(self, other: Moments) -> Moments:
        """Return the moments of both sets together, whose groups stay apart.

        References:
            Chan, Golub and LeVeque, Updating Formulae and a Pairwise Algorithm for Computing Sample Variances, 1979.
        """
        count = self.count + other.count
        apart = other.mean - self.mean
        mean = self.mean + apart * (other.count / max(count, 1))
        groups = _together(self, other) if self.groups or other.groups else None
        if self.scatter is None or other.scatter is None:
            return Moments(count, mean, groups=groups)
        between = apart.square() if self.scatter.ndim == 1 else torch.outer(apart, apart)
        weight = self.count * other.count / max(count, 1)
        return Moments(count, mean, self.scatter + other.scatter + weight * between, groups)

    @property
    def second(self) -> SecondMoment:
        """Which second moments are kept."""
        return "none" if self.scatter is None else "diag" if self.scatter.ndim == 1 else "full"


def _together(*sets: Moments) -> Groups:
    """Return the groups of all sets that are not empty."""
    parts = [one.parts for one in sets if one.count]
    return Groups(torch.cat([part.counts for part in parts]), torch.cat([part.means for part in parts]))


class Prototypes:
    """What is kept to tell several sets of vectors apart: their means and their shared covariance.

    Sets are added one at a time, and of their scatters only the sum is kept: a thousand take little more room than one.

    Args:
        moments: The first sets.

    Attributes:
        seconds: The kinds of second moments that the sets have.
        groups: Each set's groups.
    """

    def __init__(self, moments: Iterable[Moments] = ()) -> None:
        self._means: list[Tensor] = []
        self.groups: list[Groups] = []
        self._count = 0
        self._scatter: Tensor | None = None
        self.seconds: set[SecondMoment] = set()
        for part in moments:
            self.add(part)

    def add(self, one: Moments) -> None:
        """Add a set."""
        self._means.append(one.mean)
        self.groups.append(one.parts)
        self._count += one.count
        self.seconds.add(one.second)
        if one.scatter is None or len(self.seconds) > 1:
            self._scatter = None
        else:
            self._scatter = one.scatter if self._scatter is None else self._scatter + one.scatter

    @property
    def means(self) -> Tensor:
        """The sets' means, shape (set, feature), float64."""
        return torch.stack(self._means)

    @property
    def covariance(self) -> Tensor:
        """The covariance of vectors about their own set's mean: the scatters' sum over the counts'.

        Shape (feature,) or (feature, feature), float64.

        Raises:
            ValueError: If the sets have no second moments, or not all the same.
        """
        if self._scatter is None:
            raise ValueError(f"no covariance of sets with second moments {', '.join(sorted(self.seconds))}")
        return self._scatter / max(self._count, 1)

    @property
    def within(self) -> Tensor:
        """The covariance of vectors about their own group's mean, of the same shape.

        Of ``sum_i (x_i - m)(x_i - m)^T`` the groups' own means leave ``sum_g n_g (m_g - m)(m_g - m)^T`` out.

        Raises:
            ValueError: As ``covariance``.
        """
        whole = self.covariance
        apart = [
            (part.means - mean) * part.counts.to(mean)[:, None].sqrt()
            for part, mean in zip(self.groups, self._means, strict=True)
        ]
        between = torch.cat(apart)
        squares = between.square().sum(dim=0) if whole.ndim == 1 else between.mT @ between
        return whole - squares / max(self._count, 1)
