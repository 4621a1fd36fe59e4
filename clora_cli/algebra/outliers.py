"""Layers whose change is far larger than that of their like (layer L1)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median

from clora_cli.algebra.lora import Factor

__all__ = ["Outlier", "norm", "outliers"]

_FEW = 5  # layers of a kind, below which all layers are compared with one another
_TO_DEVIATION = 1.4826  # of a median absolute deviation to the standard deviation of a normal distribution
_LEAST = (
    0.25  # deviation of the logarithm: layers of one training differ by about so much even where half of them hardly do
)


@dataclass(frozen=True)
class Outlier:
    """A layer that stands out.

    Attributes:
        site: The layer.
        ratio: Its root mean square change over the median of its like.
        deviations: How many robust standard deviations its logarithm lies above the median's.
    """

    site: str
    ratio: float
    deviations: float


def norm(factor: Factor) -> float:
    """Return the Frobenius norm of a delta, from Grams of (rank, rank): no matrix of the layer's size is formed."""
    b, a = factor.b.double() * factor.scaling, factor.a.double()
    return math.sqrt(max(0.0, float(((b.mT @ b) * (a @ a.mT)).sum())))


def outliers(factors: Mapping[str, Factor], limit: float) -> list[Outlier]:
    """Return layers whose change is larger than that of their like by more than a number of robust deviations.

    The logarithms of root mean square changes are compared: median and median absolute deviation over the layers of the same last
    word, such as ``q_proj``; over all layers where there are few of a word. Layers without any change do not count.

    Args:
        factors: Pairs by site, of finite numbers.
        limit: Robust standard deviations, above 0.
    """
    sizes = {
        site: math.log(size / math.sqrt(math.prod(factor.shape)))
        for site, factor in factors.items()
        if (size := norm(factor)) > 0
    }
    found = []
    for site, size in sizes.items():
        like = [other for name, other in sizes.items() if name.rpartition(".")[2] == site.rpartition(".")[2]]
        like = like if len(like) >= _FEW else list(sizes.values())
        middle = median(like)
        spread = max(_LEAST, _TO_DEVIATION * median(abs(other - middle) for other in like))
        if len(like) >= _FEW and (deviations := (size - middle) / spread) > limit:
            found.append(Outlier(site, math.exp(size - middle), deviations))
    return sorted(found, key=lambda outlier: -outlier.deviations)
