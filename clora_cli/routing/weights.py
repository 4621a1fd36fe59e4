"""From similarities to weights over adapters (layer L1): softmax, top-k, temperature, abstention, one set of weights a site."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor

from clora_cli.algebra.statistics import Moments, Prototypes
from clora_cli.base import registry
from clora_cli.base.errors import MismatchError
from clora_cli.base.intake import natural
from clora_cli.model.features import select_sites
from clora_cli.options import RouteOptions

__all__ = ["Routing", "common_sites", "nearness", "routed_site", "softmax_over_best"]


class Routing:
    """Weights over adapters for inputs, from their features.

    Args:
        members: Each adapter's moments by site, read one after the other, a task vector as the mean of one input; at least
            one adapter.
        sites: The sites that decide, from ``common_sites``; each adapter has them.
        options: How.
        threshold: The ``nearness`` below which an input gets no adapter at all; None never abstains.

    Raises:
        MismatchError: If the similarity needs second moments that an adapter lacks, or two adapters' differ in kind.
    """

    def __init__(
        self,
        members: Iterable[Mapping[str, Moments]],
        sites: Sequence[str],
        options: RouteOptions,
        threshold: float | None = None,
    ) -> None:
        self.options, self.threshold = options, threshold
        prototypes = {site: Prototypes() for site in sites}
        widths: dict[str, int] = {}
        for member in members:
            for site, gathered in prototypes.items():
                mean = member[site].mean
                _check_width(site, widths.setdefault(site, len(mean)), mean)
                gathered.add(member[site])
        kinds = set().union(*(gathered.seconds for gathered in prototypes.values()))
        alike = len(kinds) == 1 and "none" not in kinds
        name = options.similarity if options.similarity != "auto" else "mahalanobis" if alike else "l2"
        router = registry.bound("routers", name)
        if router.needs_second and not alike:
            raise MismatchError(
                f"--similarity {name} needs the same second moments of every adapter, these have {', '.join(sorted(kinds))}; "
                "run `clora stat-features --second-moment diag|full --force` on all of them",
                code="second-moments-differ",
            )
        self.similarity = name
        self._similarities = {
            site: _of_width(site, widths[site], router.fit(gathered)) for site, gathered in prototypes.items()
        }

    @property
    def sites(self) -> tuple[str, ...]:
        """The sites that decide."""
        return tuple(self._similarities)

    def similarities(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return, for each deciding site given, the similarity of each input to each adapter, (input, adapter), float64.

        Raises:
            MismatchError: If features are of another width than the adapters' moments.
        """
        return {site: self._similarities[site](vectors) for site, vectors in features.items()}

    def weights(
        self, similarities: Mapping[str, Tensor], always: int | None = None, top_k: int | None = None
    ) -> dict[str, Tensor]:
        """Turn similarities into weights.

        Args:
            similarities: From ``similarities``.
            always: An adapter that takes part whatever its similarity, in the place of the last of the best.
            top_k: Adapters that take part instead of ``options.top_k``; 0 for all.

        Returns:
            Site to weights, shape (input, adapter), float32. Each row sums to 1, or is 0 where the input abstains.
        """
        best = self.options.top_k if top_k is None else top_k
        stacked = torch.stack(list(similarities.values()))  # (site, input, adapter): one softmax for all
        weights = self._weights(stacked.flatten(0, 1), best, always).view_as(stacked)
        if self.threshold is not None:
            weights = weights * (nearness(similarities) >= self.threshold).float()[:, None]
        return dict(zip(similarities, weights, strict=True))

    def _weights(self, similarities: Tensor, top_k: int, always: int | None) -> Tensor:
        return softmax_over_best(similarities, top_k, self.options.temperature, always).float()


def _of_width(site: str, width: int, similarity: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Return a similarity that refuses features of another width."""

    def checked(features: Tensor) -> Tensor:
        _check_width(site, width, features)
        return similarity(features)

    return checked


def _check_width(site: str, width: int, vectors: Tensor) -> None:
    if vectors.shape[-1] != width:
        raise MismatchError(
            f"features at '{site}' have {width} numbers in one place and {vectors.shape[-1]} in another; "
            "run `clora stat-features --force` on all adapters, with their own base model",
            code="feature-widths-differ",
        )


def softmax_over_best(similarities: Tensor, top_k: int, temperature: float, always: int | None = None) -> Tensor:
    """Return the softmax over the most similar adapters, 0 for the others.

    ``exp(Phi_j / T) / sum_{v in Top-K} exp(Phi_v / T)`` for j in Top-K (eq. 6 and below it, of presentative feature
    distributions). Of equally similar adapters the earlier one is taken.

    Args:
        similarities: Shape (input, adapter).
        top_k: At least 1; 0, or more than there are adapters, takes all.
        temperature: Above 0.
        always: An adapter that is among the best whatever its similarity.

    Returns:
        Shape (input, adapter).
    """
    if 0 < top_k < similarities.shape[1]:
        ranked = similarities.clone()
        if always is not None:
            ranked[:, always] = float("inf")
        similarities = similarities.masked_fill(~_best(ranked, top_k), float("-inf"))
    # The largest is 0 before it is divided: no temperature is so low that nothing finite is left.
    return ((similarities - similarities.amax(dim=1, keepdim=True)) / temperature).softmax(dim=1)


def _best(values: Tensor, count: int) -> Tensor:
    """Tell which are the ``count`` largest of each row, the earlier of equals; sorts nothing, as there may be thousands."""
    least = values.topk(count, dim=1).values[:, -1:]
    above, level = values > least, values == least
    return above | (level & (level.cumsum(dim=1) <= count - above.sum(dim=1, keepdim=True)))


def nearness(similarities: Mapping[str, Tensor]) -> Tensor:
    """Return how similar each input is to the adapter nearest to it, the mean over sites, shape (input,)."""
    return torch.stack([values.amax(dim=1) for values in similarities.values()]).mean(dim=0)


def common_sites(members: Sequence[Iterable[str]], options: RouteOptions) -> list[str]:
    """Return the sites that decide: those of the layers asked for at which every adapter has a distribution.

    Args:
        members: Each adapter's sites with a distribution.
        options: ``layer`` and ``module``.

    Raises:
        MismatchError: If the adapters have no such site in common.
        OptionError: If no site is of that layer or module.
    """
    shared = set(members[0]).intersection(*members[1:])
    if not shared:
        raise MismatchError(
            "these adapters have feature distributions at different layers; run `clora stat-features --force` on all of them",
            code="feature-layers-differ",
        )
    return select_sites(sorted(shared, key=_natural), options.layer, options.module)


def routed_site(site: str, deciding: Sequence[str], order: Sequence[str]) -> str:
    """Return the site whose weights an adapted site takes.

    Itself if it decides. Else, of the deciding sites with the same ending (of all, if there is none), the nearest before
    it in the model, or the first: a decoder's query takes the weights of the last encoder layer's query.

    Args:
        site: An adapted site.
        deciding: The sites that decide.
        order: All these sites in the model's order.
    """
    if site in deciding:
        return site
    place = {name: number for number, name in enumerate(order)}
    ending = site.rpartition(".")[2]
    alike = [one for one in deciding if one.rpartition(".")[2] == ending] or deciding
    before = [one for one in alike if place[one] < place[site]]
    return max(before, key=place.__getitem__) if before else min(alike, key=place.__getitem__)


def _natural(site: str) -> list[tuple[int, int, str]]:
    # "layers.10" after "layers.9": the model's own order, without loading it.
    numbers = [(natural(part), part) for part in re.split(r"\.", site)]
    return [(1, 0, part) if number is None else (0, number, "") for number, part in numbers]
