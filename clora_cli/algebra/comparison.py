"""How adapters overlap, collide and contradict each other; how sparse and how high in rank each is (layer L1).

All measures are of deltas, scalings included, save the orthogonal overlap, which is of ``lora_A`` as it is. What can be
had from r x r products is had from them in float64; the elementwise measures go over tiles of rows, or over sampled rows
(``collisions``), so that no whole product is held. An entry of a delta *counts* where its magnitude exceeds ``epsilon``
times the largest of its own delta at its site: no entry of a product of factors is ever exactly zero.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from clora_cli.algebra.collisions import SiteCollisions, count_collisions, margin, sampled_rows
from clora_cli.algebra.lora import Factor
from clora_cli.algebra.overlaps import left_and_right, products, ranks_of
from clora_cli.base.errors import MismatchError, OptionError
from clora_cli.base.progress import Advance

__all__ = ["EPSILON", "AdapterMeasures", "Comparison", "Deltas", "Scope", "Survey", "compare", "measure", "survey"]

Deltas = Mapping[str, Factor | Tensor]  # by site: a low-rank pair, or a dense delta of shape (out, in)
# What to measure: everything; the shares of colliding entries alone; or these against all earlier adapters alone.
Scope = Literal["all", "collisions", "earlier"]
_Pairs = tuple[tuple["Comparison | None", ...], ...]

# Plain LoRA adapters then count about three quarters of their entries, so that pairs collide, and signs can be told, in
# about 0.57 of them: the level of the papers' tables, which state no threshold (SeqLoRA's ACR 0.54, IncLoRA's sign
# shares 0.57 to 0.72).
EPSILON = 0.03
# What is added up over sites, for each pair of adapters: what collides, then the overlaps.
_SHARES = ("sites", "entries", "collisions", "same", "opposite")
_SUMS = (*_SHARES, "inner", "own", "other", "awom", "overlap", "dense")


@dataclass(frozen=True)
class AdapterMeasures:
    """One adapter's own measures; the means over sites leave out sites where the delta is zero.

    Attributes:
        sites: How many sites it adapts.
        norm: Frobenius norm of all its deltas together.
        generalized_sparsity: N-LoRA's GSR, eq. 16, ``||D||_1 / (sqrt(out * in) ||D||_F)``, mean over sites; from
            1 / sqrt(out * in), a single entry, to 1, all of one magnitude. None for an adapter of zeros.
        density: Share of the entries that count, in [0, 1].
        effective_rank: ``exp(entropy of the singular values over their sum)``, mean over sites, at least 1; or None.
        stable_rank: ``||D||_F^2 / ||D||_2^2``, mean over sites, at least 1; or None.
    """

    sites: int
    norm: float
    generalized_sparsity: float | None
    density: float
    effective_rank: float | None
    stable_rank: float | None


@dataclass(frozen=True)
class Comparison:
    """How two adapters, or an adapter and all earlier ones, overlap and collide, over the sites that they share.

    Attributes:
        shared_sites: How many sites they share.
        orthogonal_overlap: N-LoRA's OO, eq. 7, the sum over sites of ``||A_1 A_2^T||_F^2``; None if one is dense.
        awom: Eq. 8 with the Frobenius norm, the sum over sites of ``||D_1^T D_2||_F``; None if it was not asked for.
        cosine: ``<D_1, D_2>_F / (||D_1||_F ||D_2||_F)``, in [-1, 1]; None where a norm is zero, or as ``awom``.
        collision_rate: Eq. 11: share of the positions at which both entries count, in [0, 1].
        same_signs: Share of the positions at which both entries count and agree in sign.
        opposite_signs: The rest of the collisions: both entries count and differ in sign.
    """

    shared_sites: int
    orthogonal_overlap: float | None
    awom: float | None
    cosine: float | None
    collision_rate: float
    same_signs: float
    opposite_signs: float


@dataclass(frozen=True)
class Survey:
    """The measures of a sequence of adapters, by position.

    Attributes:
        epsilon: The threshold at which entries count.
        adapters: Each adapter's own; empty unless everything was asked for.
        pairs: ``pairs[i][j]`` compares two; None on the diagonal and where they share no site. Empty if pairs were left out.
        earlier: Each against all before it: the overlaps summed over them (eq. 7-8), everything else against the sum
            of their deltas (PS-LoRA's Table 6). None for the first, and where no site is shared.
        rows: How many rows of each site at most were sampled to count collisions in; 0 for all.
        margin: Half the width of the widest 95 % interval among the shares of colliding entries; 0 where all were counted.
    """

    epsilon: float
    adapters: tuple[AdapterMeasures, ...]
    pairs: tuple[tuple[Comparison | None, ...], ...]
    earlier: tuple[Comparison | None, ...]
    rows: int = 0
    margin: float = 0.0


def measure(adapter: Deltas, *, epsilon: float = EPSILON) -> AdapterMeasures:
    """Return one adapter's own measures.

    Raises:
        OptionError: If epsilon lies outside [0, 1).
    """
    return survey({"adapter": adapter}, epsilon=epsilon).adapters[0]


def compare(first: Deltas, second: Deltas, *, epsilon: float = EPSILON) -> Comparison:
    """Compare two adapters; every measure is symmetric.

    Raises:
        OptionError: If epsilon lies outside [0, 1).
        MismatchError: If they share no site, or differ in shape at one.
    """
    found = survey({"the first": first, "the second": second}, epsilon=epsilon).pairs[0][1]
    if found is None:
        raise MismatchError(
            "the two adapters share no site; compare adapters of the same layers", code="no-shared-site"
        )
    return found


def survey(
    adapters: Mapping[str, Deltas],
    *,
    epsilon: float = EPSILON,
    scope: Scope = "all",
    rows: int = 0,
    advance: Advance | None = None,
) -> Survey:
    """Measure each adapter, each pair of them, and each against all before it, in one walk over the sites.

    Args:
        adapters: Name, for messages, to adapter, in the order in which they were trained; each adapts at least one site.
        epsilon: Share of its delta's largest magnitude that an entry must exceed to count, in [0, 1).
        scope: What to measure. The time of ``earlier`` grows with the number of adapters, of the others with its square.
        rows: Count collisions in so many rows of each site, drawn by the site's name, and estimate the rest; 0 for all.
        advance: Is told of each site when it is done.

    Raises:
        OptionError: If epsilon lies outside [0, 1), or rows is 1 or below 0.
        MismatchError: If two adapters differ in shape at a site.
    """
    _check_options(epsilon, rows)
    names = list(adapters)
    totals = _Totals(len(names), scope)
    for site in sorted({site for deltas in adapters.values() for site in deltas}):
        present = [index for index, name in enumerate(names) if site in adapters[name]]
        deltas = [adapters[names[index]][site] for index in present]
        _check_shapes(site, [names[index] for index in present], deltas)
        drawn = sampled_rows(site, deltas[0].shape[0], rows)
        totals.add(present, deltas, count_collisions(deltas, epsilon, rows=drawn, pairs=totals.pairs))
        if advance is not None:
            advance(1, "")
    return Survey(epsilon, *totals.measures(), rows, totals.margin())


class _Totals:
    """Sums over sites, for each adapter, each pair, and each adapter against all before it."""

    def __init__(self, count: int, scope: Scope) -> None:
        self._count, self._all, self.pairs = count, scope == "all", scope != "earlier"
        width = count + 1 if self.pairs else 1  # the last column: all earlier ones
        self._sums = torch.zeros(len(_SUMS if self._all else _SHARES), count, width, dtype=torch.float64)
        self._variances = torch.zeros(3, count, width, dtype=torch.float64)
        self._sparsities: list[list[float]] = [[] for _ in range(count)]
        self._ranks: list[list[tuple[float, float]]] = [[] for _ in range(count)]

    def add(self, present: Sequence[int], deltas: Sequence[Factor | Tensor], found: SiteCollisions) -> None:
        """Add one site, of the adapters at these positions."""
        table, variances = _shares(found, math.prod(deltas[0].shape))
        if self._all:
            sides = [left_and_right(delta) for delta in deltas]
            table = torch.cat([table, products(deltas, sides)])
            self._add_own(present, deltas[0].shape, [left for left, _ in sides], found.magnitudes.tolist())
        rows, columns = torch.tensor(present)[:, None], torch.tensor([*present, self._count] if self.pairs else [0])
        self._sums[:, rows, columns] += table
        self._variances[:, rows, columns] += variances

    def _add_own(
        self, present: Sequence[int], shape: tuple[int, ...], lefts: Sequence[Tensor], magnitudes: Sequence[float]
    ) -> None:
        for index, left, magnitude in zip(present, lefts, magnitudes, strict=True):
            if norm := left.norm().item():
                self._sparsities[index].append(min(magnitude / (math.sqrt(math.prod(shape)) * norm), 1.0))
                self._ranks[index].append(ranks_of(left))

    def measures(self) -> tuple[tuple[AdapterMeasures, ...], _Pairs, tuple[Comparison | None, ...]]:
        """Return each adapter's own measures, those of pairs, and those against all before it."""
        everyone, sums = range(self._count), self._sums
        own = [_measures(sums[:, k, k], self._sparsities[k], self._ranks[k]) for k in everyone if self._all]
        pairs = [
            tuple(_comparison(sums[:, k, j]) if j != k else None for j in everyone) for k in everyone if self.pairs
        ]
        return tuple(own), tuple(pairs), tuple(_comparison(sums[:, k, -1]) for k in everyone)

    def margin(self) -> float:
        """Return half the width of the widest 95 % interval among the shares."""
        return margin((self._variances / self._sums[1].clamp(min=1).square()).max().item())


def _check_options(epsilon: float, rows: int) -> None:
    if not 0 <= epsilon < 1:
        raise OptionError(
            f"epsilon {epsilon:g} is a share of the largest entry; give a number from 0 to below 1",
            code="option-out-of-range",
        )
    if rows < 0 or rows == 1:
        raise OptionError(f"--sample-rows {rows}: give at least 2, or 0 for all rows", code="option-out-of-range")


def _check_shapes(site: str, names: Sequence[str], deltas: Sequence[Factor | Tensor]) -> None:
    for name, delta in zip(names, deltas, strict=True):
        if tuple(delta.shape) != tuple(deltas[0].shape):
            raise MismatchError(
                f"{names[0]} and {name} differ in shape at '{site}'; give adapters of one base model",
                code="layer-shapes-differ",
            )


def _shares(found: SiteCollisions, entries: int) -> tuple[Tensor, Tensor]:
    """Return one site's table of ``_SHARES``, and its estimates' variances; the last column is of all earlier ones."""
    counted, variance = found.earlier[:, :, None], found.earlier_variance[:, :, None]
    if found.pairs is not None and found.pairs_variance is not None:
        counted, variance = torch.cat([found.pairs, counted], 2), torch.cat([found.pairs_variance, variance], 2)
    ones = torch.ones(counted.shape[1:], dtype=torch.float64)
    ones[0, -1] = 0  # nothing is earlier than the first
    return torch.cat([torch.stack([ones, ones * entries]), counted]), variance


def _measures(sums: Tensor, sparsities: Sequence[float], ranks: Sequence[tuple[float, float]]) -> AdapterMeasures:
    of = dict(zip(_SUMS, sums.tolist(), strict=True))
    return AdapterMeasures(
        sites=int(of["sites"]),
        norm=math.sqrt(of["inner"]),
        generalized_sparsity=_mean(sparsities),
        density=of["collisions"] / of["entries"],
        effective_rank=_mean([effective for effective, _ in ranks]),
        stable_rank=_mean([stable for _, stable in ranks]),
    )


def _comparison(sums: Tensor) -> Comparison | None:
    of = dict(zip(_SUMS, sums.tolist(), strict=False))
    if not of["sites"]:
        return None
    norms = math.sqrt(of.get("own", 0)) * math.sqrt(of.get("other", 0))
    return Comparison(
        shared_sites=int(of["sites"]),
        orthogonal_overlap=None if of.get("dense") else of.get("overlap"),
        awom=of.get("awom"),
        cosine=max(-1.0, min(1.0, of["inner"] / norms)) if norms else None,
        collision_rate=of["collisions"] / of["entries"],
        same_signs=of["same"] / of["entries"],
        opposite_signs=of["opposite"] / of["entries"],
    )


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
