"""Similarities by which inputs find adapters (layer L2): one file each.

A router is a frozen dataclass whose fields are its options. It is fitted to the feature distributions of several adapters
at one site, or to their task vectors, and then says, for features of inputs at that site, how similar each input is to each
adapter's inputs. What follows (softmax, top-k, weights) is the same for all and is in ``clora_cli.routing.weights``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from clora_cli.algebra.statistics import Prototypes

__all__ = ["Router", "Similarity"]

Similarity = Callable[[Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class Router:
    """Base of all routers.

    Attributes:
        needs_second: Whether it cannot do without second moments (``clora stat-features --second-moment``).
        reads: What it knows adapters by: their ``features``, distributions at sites, their ``task-vector``, or their ``factors``,
            the directions of a site's inputs that they amplify most; ``factors`` are compared with what the sites take in.
    """

    # Without annotations they are no dataclass fields, hence no options.
    needs_second = False
    reads = "features"

    def fit(self, prototypes: Prototypes) -> Similarity:
        """Return the similarity to each adapter at one site.

        Args:
            prototypes: The means of the adapters' inputs at the site, at least one adapter; with a covariance where it is
                needed.

        Returns:
            A function of features, shape (input, feature), that gives similarities, shape (input, adapter), float64;
            more is more similar.
        """
        raise NotImplementedError
