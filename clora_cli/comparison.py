"""How adapters lie to one another: overlap, collisions, signs; how sparse and how high in rank each is (layer L1).

All measures are of deltas, scalings included, save the orthogonal overlap, which is of ``lora_A`` as it is. What can be
had from r x r products is had from them in float64; the elementwise measures go over tiles of rows of all adapters at
once, so that no whole product is held. An entry of a delta *counts* where its magnitude exceeds ``epsilon`` times the
largest of its own delta at its site: no entry of a product of factors is ever exactly zero.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import hardshrink

from clora_cli.errors import MismatchError, OptionError
from clora_cli.lora import Factor, row_tiles
from clora_cli.progress import Advance

__all__ = ["EPSILON", "AdapterMeasures", "Comparison", "Deltas", "Survey", "compare", "measure", "survey"]

Deltas = Mapping[str, Factor | Tensor]  # by site: a low-rank pair, or a dense delta of shape (out, in)

# Plain LoRA adapters then count about three quarters of their entries, so that pairs collide, and signs can be told, in
# about 0.57 of them: the level of the papers' tables, which state no threshold (SeqLoRA's ACR 0.54, IncLoRA's sign
# shares 0.57 to 0.72).
EPSILON = 0.03
_TILE = 1 << 20  # entries held at one time, of all adapters together: 4 MB
_FLOOR = 1e-13  # eigenvalues of a Gram matrix below this share of its largest are rounding
# What is added up over sites, for each pair of adapters.
_SUMS = ("sites", "entries", "collisions", "agreement", "inner", "own", "other", "awom", "overlap", "dense")


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
    """How two adapters, or an adapter and all earlier ones, lie to one another, over the sites that they share.

    Attributes:
        shared_sites: How many sites they share.
        orthogonal_overlap: N-LoRA's OO, eq. 7, the sum over sites of ``||A_1 A_2^T||_F^2``; None if one is dense.
        awom: Eq. 8 with the Frobenius norm, the sum over sites of ``||D_1^T D_2||_F``.
        cosine: ``<D_1, D_2>_F / (||D_1||_F ||D_2||_F)``, in [-1, 1]; None where a norm is zero.
        collision_rate: Eq. 11: share of the positions at which both entries count, in [0, 1].
        same_signs: Share of the positions at which both entries count and agree in sign.
        opposite_signs: The rest of the collisions: both entries count and differ in sign.
    """

    shared_sites: int
    orthogonal_overlap: float | None
    awom: float
    cosine: float | None
    collision_rate: float
    same_signs: float
    opposite_signs: float


@dataclass(frozen=True)
class Survey:
    """The measures of a sequence of adapters, by position.

    Attributes:
        epsilon: The threshold at which entries count.
        adapters: Each adapter's own.
        pairs: ``pairs[i][j]`` compares two; None on the diagonal and where they share no site.
        earlier: Each against all before it: the overlaps summed over them (eq. 7-8), everything else against the sum
            of their deltas (PS-LoRA's Table 6). None for the first, and where no site is shared.
    """

    epsilon: float
    adapters: tuple[AdapterMeasures, ...]
    pairs: tuple[tuple[Comparison | None, ...], ...]
    earlier: tuple[Comparison | None, ...]


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
        raise MismatchError("the two adapters share no site; compare adapters of the same layers")
    return found


def survey(adapters: Mapping[str, Deltas], *, epsilon: float = EPSILON, advance: Advance | None = None) -> Survey:
    """Measure each adapter, each pair of them, and each against all before it, in one walk over the sites.

    Args:
        adapters: Name, for messages, to adapter, in the order in which they were trained; each adapts at least one site.
        epsilon: Share of its delta's largest magnitude that an entry must exceed to count, in [0, 1).
        advance: Is told of each site when it is done.

    Raises:
        OptionError: If epsilon lies outside [0, 1).
        MismatchError: If two adapters differ in shape at a site.
    """
    if not 0 <= epsilon < 1:
        raise OptionError(f"epsilon {epsilon:g} is a share of the largest entry; give a number from 0 to below 1")
    names, count = list(adapters), len(adapters)
    totals = torch.zeros(len(_SUMS), count, count + 1, dtype=torch.float64)  # the last column: all earlier ones
    sparsities: list[list[float]] = [[] for _ in names]
    ranks: list[list[tuple[float, float]]] = [[] for _ in names]
    for site in sorted({site for deltas in adapters.values() for site in deltas}):
        present = [index for index, name in enumerate(names) if site in adapters[name]]
        deltas = [adapters[names[index]][site] for index in present]
        _check_shapes(site, [names[index] for index in present], deltas)
        lefts, table, magnitudes = _at_site(deltas, epsilon)
        rows = torch.tensor(present)
        totals[:, rows[:, None], torch.tensor([*present, count])] += table
        for index, left, magnitude in zip(present, lefts, magnitudes, strict=True):
            if norm := left.norm().item():
                sparsities[index].append(min(magnitude / (math.sqrt(math.prod(deltas[0].shape)) * norm), 1.0))
                ranks[index].append(_ranks(left))
        if advance is not None:
            advance(1, "")
    own = tuple(_measures(totals[:, k, k], sparsities[k], ranks[k]) for k in range(count))
    pairs = tuple(tuple(_comparison(totals[:, k, j]) if j != k else None for j in range(count)) for k in range(count))
    return Survey(epsilon, own, pairs, tuple(_comparison(totals[:, k, count]) for k in range(count)))


def _check_shapes(site: str, names: Sequence[str], deltas: Sequence[Factor | Tensor]) -> None:
    for name, delta in zip(names, deltas, strict=True):
        if tuple(delta.shape) != tuple(deltas[0].shape):
            raise MismatchError(f"{names[0]} and {name} differ in shape at '{site}'; give adapters of one base model")


def _at_site(deltas: Sequence[Factor | Tensor], epsilon: float) -> tuple[list[Tensor], Tensor, list[float]]:
    """Return one site's left sides, its table of ``_SUMS``, shape (sum, adapter, adapter + 1), and each L1 norm."""
    count, entries = len(deltas), math.prod(deltas[0].shape)
    sides = [_sides(delta) for delta in deltas]
    counts, magnitudes = _counts(deltas, epsilon)
    ones = torch.ones(count, count + 1, dtype=torch.float64)
    ones[0, -1] = 0  # nothing is earlier than the first
    table = torch.cat([torch.stack([ones, ones * entries]), counts, _products(deltas, sides)])
    return [left for left, _ in sides], table, magnitudes


def _sides(delta: Factor | Tensor) -> tuple[Tensor, Tensor | None]:
    """Write a delta as ``left @ right^T`` with orthonormal columns in ``right``; None stands for the identity.

    Norms and singular values of the delta are then those of ``left``: shape (out, rank), or (out, in) if dense.
    """
    if not isinstance(delta, Factor):
        return delta.double(), None
    q, r = torch.linalg.qr(delta.a.double().mT)
    return delta.scaling * delta.b.double() @ r.mT, q


def _products(deltas: Sequence[Factor | Tensor], sides: Sequence[tuple[Tensor, Tensor | None]]) -> Tensor:
    """Return a site's inner products, energies of either side, AWOMs and overlaps, shape (6, adapter, adapter + 1)."""
    count = len(deltas)
    inner, awom, overlap, dense = torch.zeros(4, count, count, dtype=torch.float64)
    for i in range(count):
        for j in range(i, count):
            inner[i, j], awom[i, j] = _product(sides[i], sides[j])
            one, other = deltas[i], deltas[j]
            if isinstance(one, Factor) and isinstance(other, Factor):
                overlap[i, j] = (one.a.double() @ other.a.double().mT).square().sum()
            else:
                dense[i, j] = 1
    inner, awom, overlap, dense = (table.triu() + table.triu(1).mT for table in (inner, awom, overlap, dense))
    before = torch.ones(count, count, dtype=torch.float64).tril(-1)
    own = inner.diagonal()[:, None].expand(count, count)
    # The squared norm of a sum is the sum of all its terms' inner products.
    earlier = ((before @ inner) * before).sum(1).clamp(min=0)
    columns = [
        (inner * before).sum(1),
        own[:, 0],
        earlier,
        *((table * before).sum(1) for table in (awom, overlap, dense)),
    ]
    columns[1] = columns[1] * before.any(1)
    return torch.cat([torch.stack([inner, own, own.mT, awom, overlap, dense]), torch.stack(columns)[:, :, None]], 2)


def _product(one: tuple[Tensor, Tensor | None], other: tuple[Tensor, Tensor | None]) -> tuple[float, float]:
    """Return ``<D_1, D_2>_F`` and ``||D_1^T D_2||_F`` from the sides; r x r where both are low-rank."""
    (left_1, right_1), (left_2, right_2) = one, other
    inner = square = 0.0
    size = max(1, _TILE // left_2.shape[1])
    for start in range(0, left_1.shape[1], size):
        part = slice(start, start + size)
        middle = left_1[:, part].mT @ left_2
        square += middle.square().sum().item()
        # The inner product is that of the middle with right_1^T right_2.
        if right_1 is not None:
            facing = right_1[:, part].mT
            inner += (middle * (facing if right_2 is None else facing @ right_2)).sum().item()
        else:
            inner += (middle.diagonal(start) if right_2 is None else middle * right_2[part]).sum().item()
    return inner, math.sqrt(square)


def _counts(deltas: Sequence[Factor | Tensor], epsilon: float) -> tuple[Tensor, list[float]]:
    """Return a site's collisions and how much more agree in sign than differ, shape (2, adapter, adapter + 1).

    Returns:
        The two tables, and each delta's sum of magnitudes.
    """
    count = len(deltas)
    peaks = magnitudes = torch.zeros((), dtype=torch.float64)
    for rows in _tiles(deltas):
        peaks = torch.maximum(peaks, torch.maximum(rows.amax(1), -rows.amin(1)))
        magnitudes = magnitudes + rows[:count].abs().sum(1).double()
    thresholds = (epsilon * peaks).tolist()
    table = torch.zeros(2, len(peaks), count, dtype=torch.float64)
    for rows in _tiles(deltas):
        for row, threshold in zip(rows, thresholds, strict=True):
            row.copy_(hardshrink(row, threshold).sign_())
        # 1 and -1 for the entries that count, else 0: the products of rows are counts, exact in float32 for a tile.
        table[1] += rows @ rows[:count].mT
        rows.abs_()
        table[0] += rows @ rows[:count].mT
    earlier = torch.zeros(2, count, 1, dtype=torch.float64)
    earlier[:, 1:2, 0] = table[:, :1, 1:2].diagonal(dim1=1, dim2=2)  # before the second there is the first alone
    earlier[:, 2:, 0] = table[:, count:, 2:].diagonal(dim1=1, dim2=2)
    return torch.cat([table[:, :count], earlier], 2), magnitudes.tolist()


def _tiles(deltas: Sequence[Factor | Tensor]) -> Iterator[Tensor]:
    """Yield tiles of rows of all deltas, flat, and below them of the sums of those before the third, the fourth and so on."""
    dtype = torch.float32
    for delta in deltas:
        dtype = torch.promote_types(dtype, delta.b.dtype if isinstance(delta, Factor) else delta.dtype)
    pairs = [(d.b.to(dtype) * d.scaling, d.a.to(dtype)) if isinstance(d, Factor) else (d, None) for d in deltas]
    rows, columns = deltas[0].shape
    for part in row_tiles(rows, columns * len(deltas), _TILE):
        parts = [b[part].to(dtype) if a is None else b[part] @ a for b, a in pairs]
        tile = torch.stack(parts).flatten(1)
        yield torch.cat([tile, tile[:-1].cumsum(0)[1:]])


def _ranks(left: Tensor) -> tuple[float, float]:
    """Return the effective rank and the stable rank of a matrix that is not zero."""
    gram = left.mT @ left if left.shape[0] > left.shape[1] else left @ left.mT
    energies = torch.linalg.eigvalsh(gram)
    energies = energies[energies > _FLOOR * energies[-1]]
    values = energies.sqrt()
    shares = values / values.sum()
    entropy = -(shares * shares.log()).sum().item()
    return math.exp(entropy), (energies.sum() / energies[-1]).item()


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
    of = dict(zip(_SUMS, sums.tolist(), strict=True))
    if not of["sites"]:
        return None
    norms = math.sqrt(of["own"]) * math.sqrt(of["other"])
    return Comparison(
        shared_sites=int(of["sites"]),
        orthogonal_overlap=None if of["dense"] else of["overlap"],
        awom=of["awom"],
        cosine=max(-1.0, min(1.0, of["inner"] / norms)) if norms else None,
        collision_rate=of["collisions"] / of["entries"],
        same_signs=(of["collisions"] + of["agreement"]) / 2 / of["entries"],
        opposite_signs=(of["collisions"] - of["agreement"]) / 2 / of["entries"],
    )


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
