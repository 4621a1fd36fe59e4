"""Differentially private moments (layer L1): the analytic Gaussian mechanism on clipped feature vectors.

A release says nearly the same whether or not any single input was among those that made it: whatever anybody concludes
from it is, save with probability delta, at most exp(epsilon) times as likely with one input as with any other in its
place. The number of inputs is public. Every vector is moved to a public centre and clipped to a public radius, which
bounds what one input can change; Gaussian noise of that size hides it.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from clora_cli.algebra.statistics import Moments
from clora_cli.base.errors import OptionError

__all__ = ["Ball", "Guarantee", "delta_of", "noise_multiplier", "normal", "release"]

_ADJACENCY = "one input replaced by any other; the number of inputs is public"
_LIMITS = (
    "covers this file alone, not the adapter's weights, and each release of the same inputs spends a budget of its own; "
    "noise is drawn in floating point, its low bits rounded away"
)
# Where float64 carries theorem 8 to four digits, measured against 60 digits: at an epsilon of 1e-6 the delta that is kept
# is off by 5e-5 of itself at worst, at 1e-10 by more than a half, for deltas down to 1e-300.
_LEAST, _MOST, _LEAST_DELTA = 1e-6, 1e9, 1e-300
# Bits below the noise's size at which released sums are rounded: what floating point leaves there tells nothing.
_GRID = 20


@dataclass(frozen=True)
class Guarantee:
    """What is promised of a release, and how far single inputs count.

    Attributes:
        epsilon: Bound on the logarithm of how much likelier one input can make a release than another, in [1e-6, 1e9].
        delta: Probability that the bound fails, in (0, 1); well below one over the number of inputs.
        clip: The radius to which vectors are clipped, in mean distances of the public texts from their centre, in [1e-6, 1e9].
    """

    epsilon: float
    delta: float
    clip: float = 1.0

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            OptionError: If a value is out of range.
        """
        for name, value in (("epsilon", self.epsilon), ("clip", self.clip)):
            if not 0 < value < math.inf:
                raise OptionError(f"--dp-{name} {value:g}: give a number above 0", code="option-out-of-range")
            if not _LEAST <= value <= _MOST:
                raise OptionError(
                    f"--dp-{name} {value:g}: give a number from {_LEAST:g} to {_MOST:g}; beyond, the guarantee would be lost "
                    "in rounding",
                    code="option-out-of-range",
                )
        if not 0 < self.delta < 1:
            raise OptionError(
                f"--dp-delta {self.delta:g}: give a probability in (0, 1), far below one over the rows",
                code="option-out-of-range",
            )
        if self.delta < _LEAST_DELTA:
            raise OptionError(
                f"--dp-delta {self.delta:g}: give at least {_LEAST_DELTA:g}, the least that can be computed",
                code="option-out-of-range",
            )

    def requested(self) -> dict[str, float]:
        """Return what was asked for."""
        return {"epsilon": self.epsilon, "delta": self.delta, "clip": self.clip}

    def recorded(self, balls: Mapping[str, Ball]) -> dict[str, Any]:
        """Return the statement of the guarantee that goes with a release.

        Args:
            balls: Site to its public ball, of every site released.
        """
        return {
            **self.requested(),
            "mechanism": "analytic Gaussian",
            "reference": "arXiv:1805.06530, algorithm 1",
            "adjacency": _ADJACENCY,
            "sigma": noise_multiplier(self.epsilon, self.delta),
            "sites": len(balls),
            "radius": {site: ball.radius for site, ball in sorted(balls.items())},
            "public": "centre and radius, from prompts of the bundled tasks",
            "limits": _LIMITS,
        }


@dataclass(frozen=True, eq=False)
class Ball:
    """Where vectors are expected, known without the private ones.

    Attributes:
        centre: Shape (feature,), float64.
        radius: Length to which a vector's distance from the centre is clipped, above 0.
    """

    centre: Tensor
    radius: float

    @classmethod
    def around(cls, vectors: Tensor, clip: float = 1.0) -> Ball:
        """Return the ball around public vectors, whose radius is ``clip`` times their mean distance from their mean.

        Routing by l2 over 15 tasks of 200 inputs, against 1: twice the radius costs 7 to 23 points at epsilon 1, by noise;
        half of it up to 9 points at epsilon 8, by clipping.

        Args:
            vectors: Shape (vector, feature), at least two that differ.
            clip: Above 0.
        """
        vectors = vectors.cpu().double()
        centre = vectors.mean(dim=0)
        distance = (vectors - centre).norm(dim=1).mean().item()
        return cls(centre, clip * max(distance, torch.finfo(torch.float32).tiny))

    def clipped(self, vectors: Tensor) -> Tensor:
        """Return vectors from the centre, none longer than the radius, shape (vector, feature), float64, on the CPU."""
        away = vectors.cpu().double() - self.centre
        shrunk: Tensor = away * (self.radius / away.norm(dim=1, keepdim=True)).clamp(max=1)
        return shrunk


def delta_of(sigma: float, epsilon: float) -> float:
    """Return the smallest delta that Gaussian noise gives at sensitivity 1.

    ``Phi(1 / (2 sigma) - epsilon sigma) - exp(epsilon) Phi(-1 / (2 sigma) - epsilon sigma)`` with the normal distribution
    function Phi; the exponential is drawn into the second term, which overflows otherwise.

    Args:
        sigma: Standard deviation of the noise, above 0.
        epsilon: Above 0.

    References:
        Balle and Wang, Improving the Gaussian Mechanism for Differential Privacy: Analytical Calibration and Optimal
        Denoising, 2018, arXiv:1805.06530, theorem 8.
    """
    near = (epsilon * sigma - 0.5 / sigma) / math.sqrt(2)
    far = (epsilon * sigma + 0.5 / sigma) / math.sqrt(2)  # far^2 - near^2 = epsilon
    scaled: float = torch.special.erfcx(torch.tensor(far, dtype=torch.float64)).item()
    return (math.erfc(near) - math.exp(-near * near) * scaled) / 2


def noise_multiplier(epsilon: float, delta: float) -> float:
    """Return the least standard deviation that noise must have, over the sensitivity, to give a guarantee.

    Args:
        epsilon: Above 0.
        delta: In (0, 1).

    References:
        Balle and Wang, 2018, arXiv:1805.06530, algorithm 1; found here by bisection on theorem 8, from above.
    """
    low, high = 0.0, 1.0
    while delta_of(high, epsilon) > delta:
        low, high = high, 2 * high
    while high - low > 1e-12 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if delta_of(middle, epsilon) > delta else (low, middle)
    return high


def release(clipped: Moments, ball: Ball, sites: int, sigma: float) -> Moments:
    """Turn the moments of clipped vectors of one site into ones that may be given away.

    The sum of the vectors gets noise of standard deviation ``2 r sigma sqrt(sites)`` for radius r, the sum of their
    products (or squares) ``sqrt(8) r^2 sigma sqrt(sites)`` in Frobenius norm. With x and z in the unit ball,
    ``|x - z|^2 / 4 + |x x^T - z z^T|_F^2 / 8 <= 1``: an input that changes one of the two most (z = -x) leaves the other as
    it is, so that second moments cost the means nothing, and each site is one statistic of sensitivity 1.

    The mean and the scatter of the result are unbiased for those of the clipped vectors. The scatter is not made positive
    semidefinite; where inputs are few it is not.

    Args:
        clipped: Moments of what ``ball.clipped`` gives.
        ball: The site's public ball.
        sites: How many sites are released together.
        sigma: From ``noise_multiplier``.

    Returns:
        Moments in the vectors' own coordinates, with the same count and the same second moments.
    """
    count, unit = clipped.count, sigma * math.sqrt(sites)
    spread = 2 * ball.radius * unit
    mean = _noised(clipped.mean * count, spread) / count
    if clipped.scatter is None:
        return Moments(count, ball.centre + mean)
    products = clipped.scatter + count * _square(clipped.mean, clipped.scatter)
    products = _noised(products, math.sqrt(8) * ball.radius**2 * unit)
    # The mean's own noise adds its variance to the mean's square.
    excess = torch.full_like(mean, (spread / count) ** 2)
    square = _square(mean, products) - (excess.diag() if products.ndim == 2 else excess)
    return Moments(count, ball.centre + mean, products - count * square)


def normal(*shape: int) -> Tensor:
    """Draw standard normal numbers from the operating system's entropy, float64.

    Torch's generators take 32 bits of a seed: few enough to try them all. These draws cannot be repeated by anybody.

    References:
        Box and Muller, A Note on the Generation of Random Normal Deviates, 1958.
    """
    bits = torch.frombuffer(bytearray(secrets.token_bytes(16 * math.prod(shape))), dtype=torch.int64).view(2, *shape)
    radial, angular = ((bits >> 11 & (1 << 53) - 1).double() + 0.5) / (1 << 53)
    drawn: Tensor = (-2 * radial.log()).sqrt() * (2 * math.pi * angular).cos()
    return drawn


def _noised(values: Tensor, spread: float) -> Tensor:
    """Add noise; of a symmetric matrix, to one triangle: its Frobenius norm counts each pair of entries twice."""
    noise = normal(*values.shape) * spread
    grid = 2.0 ** (math.floor(math.log2(spread)) - _GRID)
    if values.ndim == 1:
        return ((values + noise) / grid).round() * grid
    rounded = ((values + (noise + noise.mT) / 2) / grid).round() * grid
    return rounded.triu() + rounded.triu(1).mT


def _square(mean: Tensor, like: Tensor) -> Tensor:
    return mean.square() if like.ndim == 1 else torch.outer(mean, mean)
