"""Where the entries of several deltas of one site collide, and whether their signs agree there (layer L1).

An entry *counts* where its magnitude exceeds ``epsilon`` times the largest of its own delta at its site. The largest is
always taken over all entries: one pass over the deltas, tile by tile, whose time grows with the number of adapters.
Collisions are then counted in all rows, or in rows drawn at random, from which the whole is estimated with its variance.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import hardshrink

from clora_cli.algebra.lora import Factor, row_tiles

__all__ = ["SiteCollisions", "count_collisions", "margin", "sampled_rows"]

_TILE = 1 << 18  # entries of one delta held at one time: 1 MB, which a core's cache holds
_Rows = Callable[[int, slice | Tensor], Tensor]  # an adapter's number and some rows to those rows of its delta


@dataclass(frozen=True, eq=False)
class SiteCollisions:
    """What was counted at one site, or estimated from sampled rows.

    Attributes:
        pairs: (3, adapter, adapter): the positions at which both entries count, and of these the ones of equal and of
            opposite signs; on the diagonal, a delta's own entries that count. None if pairs were left out.
        earlier: (3, adapter): the same of each delta against the sum of those before it; zeros for the first.
        pairs_variance: (3, adapter, adapter), of the estimates; zeros where all rows were counted; None as ``pairs``.
        earlier_variance: (3, adapter), likewise.
        magnitudes: (adapter,), each delta's sum of magnitudes, over all rows.
    """

    pairs: Tensor | None
    earlier: Tensor
    pairs_variance: Tensor | None
    earlier_variance: Tensor
    magnitudes: Tensor


def sampled_rows(site: str, total: int, wanted: int) -> Tensor | None:
    """Draw the rows of a site to count in: a site's name always gives the same rows.

    Args:
        site: The site.
        total: Rows that its deltas have.
        wanted: How many to draw, at least 2; 0 for all.

    Returns:
        Sorted row numbers, or None where all rows are to be counted.
    """
    if not 0 < wanted < total:
        return None
    seed = int.from_bytes(hashlib.sha256(site.encode()).digest()[:8], "little") >> 1
    drawn = torch.randperm(total, generator=torch.Generator().manual_seed(seed))[:wanted]
    return drawn.sort().values


def count_collisions(
    deltas: Sequence[Factor | Tensor], epsilon: float, *, rows: Tensor | None = None, pairs: bool = True
) -> SiteCollisions:
    """Count the collisions of the deltas of one site.

    Args:
        deltas: Of one shape, (out, in), in the order in which they were trained.
        epsilon: Share of its delta's largest magnitude that an entry must exceed to count, in [0, 1).
        rows: The rows to count in, at least 2, from which the rest is estimated; None for all.
        pairs: Whether to count every pair too: time and memory then grow with the square of the number of adapters.
    """
    shape, part_of = deltas[0].shape, _reader(deltas)
    own, before, magnitudes = _peaks(part_of, len(deltas), shape)
    tally = _Tally(len(deltas), pairs)
    tile = _TILE // (len(deltas) if pairs else 1)
    for part in _parts(rows, shape, tile):
        tally.add(part_of, part, [epsilon * peak for peak in own], [epsilon * peak for peak in before])
    return tally.result(shape[0], sampled=rows is not None, magnitudes=magnitudes)


class _Tally:
    """Sums over rows, and of their squares, of what is counted in each row."""

    def __init__(self, count: int, pairs: bool) -> None:
        self._count, self._rows = count, 0
        self._earlier = torch.zeros(2, 3, count, dtype=torch.float64)  # the sums, and those of the squares
        self._pairs = torch.zeros(2, 3, count, count, dtype=torch.float64) if pairs else None

    def add(self, part_of: _Rows, part: slice | Tensor, own: Sequence[float], before: Sequence[float]) -> None:
        """Count in some rows; ``own`` and ``before`` are the thresholds of each delta and of the sum before it."""
        total, marks = None, []
        for number in range(self._count):
            values = part_of(number, part)
            mark = _marks(values, own[number])
            if total is None:
                total, self._rows = values, self._rows + len(values)
            else:
                both = mark * _marks(total, before[number])
                _add(self._earlier[:, :, number], both.abs().sum(1), both.sum(1))
                total = total + values
            if self._pairs is not None:
                marks.append(mark)
        if self._pairs is not None:
            # 1 and -1 for the entries that count, else 0: products are counts, exact in float32 for a row.
            stacked = torch.stack(marks, 1)
            agreement = stacked @ stacked.mT
            stacked.abs_()
            _add(self._pairs, stacked @ stacked.mT, agreement)

    def result(self, total_rows: int, *, sampled: bool, magnitudes: Tensor) -> SiteCollisions:
        """Return the counts, or their estimates for all rows."""
        earlier, earlier_variance = self._estimate(self._earlier, total_rows, sampled)
        if self._pairs is None:
            return SiteCollisions(None, earlier, None, earlier_variance, magnitudes)
        pairs, variance = self._estimate(self._pairs, total_rows, sampled)
        return SiteCollisions(pairs, earlier, variance, earlier_variance, magnitudes)

    def _estimate(self, sums: Tensor, total_rows: int, sampled: bool) -> tuple[Tensor, Tensor]:
        """Return totals with their variance under sampling without replacement."""
        first, second = sums
        if not sampled:
            return first, torch.zeros_like(first)
        spread = (second - first.square() / self._rows).clamp(min=0) / (self._rows - 1)
        factor = total_rows * (total_rows - self._rows) / self._rows
        return first * (total_rows / self._rows), factor * spread


def _add(sums: Tensor, collisions: Tensor, agreement: Tensor) -> None:
    """Add the rows' numbers, shape (row, …), to sums of them and of their squares, shape (2, 3, …)."""
    shares = torch.stack([collisions, (collisions + agreement) / 2, (collisions - agreement) / 2]).double()
    sums[0] += shares.sum(1)
    sums[1] += shares.square().sum(1)


def _marks(values: Tensor, threshold: float) -> Tensor:
    return hardshrink(values, threshold).sign_()


def _peaks(part_of: _Rows, count: int, shape: tuple[int, ...]) -> tuple[list[float], list[float], Tensor]:
    """Return the largest magnitude of each delta and of the sum before each, and each delta's sum of magnitudes."""
    own, before = [0.0] * count, [0.0] * count
    magnitudes = torch.zeros(count, dtype=torch.float64)
    for part in row_tiles(shape[0], shape[1], _TILE):
        total = None
        for number in range(count):
            values = part_of(number, part)
            own[number] = max(own[number], _peak(values))
            magnitudes[number] += torch.linalg.vector_norm(values, 1)
            if total is None:
                total = values
            else:
                before[number] = max(before[number], _peak(total))
                total = total + values
    return own, before, magnitudes


def _peak(values: Tensor) -> float:
    low, high = torch.aminmax(values)
    return max(-low.item(), high.item())


def _parts(rows: Tensor | None, shape: tuple[int, ...], tile: int) -> Iterator[slice | Tensor]:
    if rows is None:
        return iter(row_tiles(shape[0], shape[1], tile))
    return iter(torch.split(rows, max(1, tile // shape[1])))


def _reader(deltas: Sequence[Factor | Tensor]) -> _Rows:
    """Return functions that give rows of a delta, all in the widest type among them, float32 at least."""
    dtype = torch.float32
    for delta in deltas:
        dtype = torch.promote_types(dtype, delta.b.dtype if isinstance(delta, Factor) else delta.dtype)
    sides = [(d.b.to(dtype) * d.scaling, d.a.to(dtype)) if isinstance(d, Factor) else (d, None) for d in deltas]

    def part_of(number: int, part: slice | Tensor) -> Tensor:
        left, right = sides[number]
        return left[part].to(dtype) if right is None else left[part] @ right

    return part_of


def margin(variance: float) -> float:
    """Return half the width of the 95 % interval of an estimate, from its variance."""
    return 1.96 * math.sqrt(variance)
