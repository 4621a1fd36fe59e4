"""Ways to merge adapters into one delta (layer L2): one file each.

A merge is a frozen dataclass whose fields are its options. It works in product space, on deltas ``scaling * B A`` of
shape (out, in), never on the factors apart: flipping the sign of both factors of an adapter changes nothing.

- A *linear* merge says by which ``coefficients`` the deltas are added; factors then give the result exactly, and parts of
  one LoRA that LoRA.
- Any other merge computes the merged delta of one site from ``Deltas``, which it may iterate over several times.

Whoever merges adapter folders, a command, an evaluation, a training or a recipe, makes one call: ``Merger``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from clora_cli.algebra.lora import HUGE, Factor, add_up, bound, recompress, row_tiles, truncate
from clora_cli.base.errors import ArtifactError, OptionError
from clora_cli.merges._checks import check_member, states_of
from clora_cli.merges._combine import nothing, product, weighted_sum, working
from clora_cli.model.base_layers import BaseLayers
from clora_cli.store.adapter_folder import AdapterFolder

__all__ = ["SEED", "Deltas", "Merge", "Merged", "Merger", "merge_sites"]

SEED = 42  # of merges that draw random numbers, where the user gives none
_TILE = 1 << 16  # entries of a tile: 256 KB, so that a tile and the few it is compared with stay in a core's cache


@dataclass(frozen=True, eq=False)
class Deltas:
    """All adapters' deltas at one site, or at some rows of it, computed one at a time whenever they are iterated over.

    Attributes:
        adapters: Each adapter's factors or dense delta at the site, whole; at least one.
        weights: The weight of each adapter, shape (adapter,), float32.
        rows: Which rows of the site the merge is asked for.
        seed: Seed of ``generator``.
        base: The base model's weight, rows of it alike, shape (rows, in), where the merge ``needs`` it; else None.
        states: Each adapter's ``state.clora`` at this site: name to tensor of shape (out, in), where ``needs`` asks.
        buffer: Where to put products of factors, shape (at least rows, in); None for fresh memory each time.
        numbers: Each adapter's place among all of the merge, some of which may lack the site; from 0 without it.
    """

    adapters: Sequence[Factor | Tensor]
    weights: Tensor
    rows: slice = field(default_factory=lambda: slice(None))
    seed: int = 0
    base: Tensor | None = None
    states: Sequence[Mapping[str, Tensor]] = ()
    buffer: Tensor | None = None
    numbers: Sequence[int] = ()

    def __len__(self) -> int:
        """Return the number of adapters."""
        return len(self.adapters)

    def __iter__(self) -> Iterator[Tensor]:
        """Yield each adapter's delta, shape (rows, in), float32 unless the factors are float64.

        The caller may change it in place; where tiles are computed, all of them stand in one ``buffer``, and a delta is
        good until the next one is asked for.
        """
        for adapter in self.adapters:
            if isinstance(adapter, Factor):
                yield product(adapter, self.rows, self.buffer)
            else:
                yield adapter[self.rows].to(working(adapter), copy=True)

    def weighted(self) -> Iterator[Tensor]:
        """Yield each adapter's delta times its weight, as iteration does."""
        for weight, delta in zip(self.weights.tolist(), self, strict=True):
            yield delta if weight == 1 else delta.mul_(weight)

    def state(self, name: str) -> Iterator[Tensor]:
        """Yield each adapter's tensor of this name, shape (rows, in).

        Raises:
            ArtifactError: If an adapter's state has none.
        """
        for number, state in enumerate(self.states):
            if name not in state:
                raise ArtifactError(
                    f"adapter {number + 1} of the merge keeps no '{name}' in its state.clora",
                    code="merge-state-missing",
                )
            yield state[name][self.rows].to(torch.float32, copy=True)

    def generator(self, adapter: int) -> torch.Generator:
        """Return a generator for one adapter at this site, the same at every call, whichever other adapters have the site."""
        number = self.numbers[adapter] if self.numbers else adapter
        return torch.Generator().manual_seed((self.seed + 0x9E3779B97F4A7C15 * (number + 1)) % (1 << 63))


@dataclass(frozen=True, kw_only=True)
class Merge:
    """Base of all merges.

    Attributes:
        linear: Whether the result is the sum of the deltas times ``coefficients``.
        by_rows: Whether a row of the result depends on that row of the deltas alone; it is then computed in tiles of rows.
        needs: What it reads beside the deltas: ``base`` (the base model's weights), ``fisher`` (of each adapter's state).
        low_rank: Whether a merge that is not linear gives factors where all adapters are factors.
        ordered: Whether the adapters' order matters, as where one is merged after the other.
        last_apart: Whether the last adapter is treated unlike the others: also at a site that it lacks, and there as 0.
        refactors: Whether the result is cut to the largest rank among the adapters where the user names no rank.
    """

    # Without annotations these are no dataclass fields, hence no options.
    linear = False
    by_rows = False
    needs = ()  # type: tuple[str, ...]
    low_rank = False
    ordered = False
    last_apart = False
    refactors = False

    def coefficients(self, weights: Tensor) -> Tensor:
        """Return a linear merge's factor of each delta, shape (adapter,).

        Raises:
            OptionError: If the weights make no sense for this merge.
        """
        raise NotImplementedError

    def merge(self, deltas: Deltas) -> Factor | Tensor:
        """Return the merged delta of a merge that is not linear, shape (rows, in), float32; factors where it is ``low_rank``."""
        raise NotImplementedError


class Merged(NamedTuple):
    """The result of a merge at one site.

    Attributes:
        site: The site.
        delta: Factors, or the dense delta of shape (out, in).
        energy: Squared Frobenius norms of the delta and of what it was cut from; None where it was not cut.
    """

    site: str
    delta: Factor | Tensor
    energy: tuple[float, float] | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class Merger:
    """A merge of adapter folders, with everything that determines its result.

    Attributes:
        merge: The bound merge.
        members: The adapters, in the order given; at least one.
        weights: One weight per adapter; empty for ones.
        rank: What the result is cut to; 0 for no cut, but where the merge refactors.
        seed: Of merges that draw random numbers and of randomised singular value decompositions.
        layers: The base model's, which the adapters' sites are compared with and whose weights the merge may need; None
            where it is not here.
    """

    merge: Merge
    members: Sequence[AdapterFolder]
    weights: Sequence[float] = ()
    rank: int = 0
    seed: int = SEED
    layers: BaseLayers | None = None

    @cached_property
    def fitted(self) -> Sequence[AdapterFolder]:
        """The members under the base model's own names, where it is here."""
        return self.layers.fitted(self.members) if self.layers else self.members

    @cached_property
    def deltas(self) -> list[Mapping[str, Factor | Tensor]]:
        """Each member's factors or dense deltas by site."""
        return [member.deltas() for member in self.fitted]

    @cached_property
    def shapes(self) -> dict[str, tuple[int, int]]:
        """Site to (out, in), sites sorted."""
        shapes: dict[str, tuple[int, int]] = {}
        for deltas in self.deltas:
            shapes |= {site: (delta.shape[0], delta.shape[1]) for site, delta in deltas.items()}
        return dict(sorted(shapes.items()))

    @property
    def cut(self) -> int:
        """The rank that the result is cut to; 0 for no cut."""
        if self.rank or not self.merge.refactors:
            return self.rank
        ranks = [delta.rank for deltas in self.deltas for delta in deltas.values() if isinstance(delta, Factor)]
        return max(ranks, default=0)

    @property
    def _states(self) -> set[str]:
        return set(self.merge.needs) - {"base"}

    @property
    def _base(self) -> Callable[[str], Tensor] | None:
        layers, shapes = self.layers, self.shapes
        return (lambda site: layers.weight(site, shapes[site])) if layers else None

    @property
    def _weights(self) -> Tensor:
        return torch.tensor(self.weights or [1.0] * len(self.members))

    def check(self) -> None:
        """Check that the adapters fit together, and have what the merge needs, before anything is computed.

        Raises:
            CloraError: If two differ in a layer's shape, a number is not finite or beyond all bounds, a weight makes no sense, or
                an adapter keeps not what the merge needs.
        """
        for member, deltas in zip(self.fitted, self.deltas, strict=True):
            check_member(member, deltas, self.shapes, self._states)
        if "base" in self.merge.needs and self.layers:
            self.layers.stored(self.shapes)
        if self.merge.linear:
            self.merge.coefficients(self._weights)

    def sites(self, names: Container[str] | None = None) -> Iterator[Merged]:
        """Merge one site at a time, at all sites or at those named.

        Raises:
            OptionError: If the result is beyond all bounds.
            CloraError: If a file cannot be read any more.
        """
        deltas = [{site: d for site, d in deltas.items() if names is None or site in names} for deltas in self.deltas]
        states = [states_of(member) for member in self.fitted] if self._states else ()
        merged = merge_sites(self.merge, deltas, self._weights, seed=self.seed, base=self._base, states=states)
        for site, delta in merged:
            if not (most := bound(delta)) <= HUGE:
                raise OptionError(
                    f"the merge would change a weight of '{site}' by {most:.2g}; give smaller weights",
                    code="merged-change-too-large",
                )
            yield self._cut(site, delta)

    def _cut(self, site: str, delta: Factor | Tensor) -> Merged:
        if not (rank := self.cut):
            return Merged(site, delta)
        small, kept, whole = recompress(delta, rank) if isinstance(delta, Factor) else truncate(delta, rank, self.seed)
        return Merged(site, small, (kept, whole))


def merge_sites(
    merge: Merge,
    adapters: Sequence[Mapping[str, Factor | Tensor]],
    weights: Tensor,
    *,
    seed: int = 0,
    base: Callable[[str], Tensor] | None = None,
    states: Sequence[Mapping[str, Mapping[str, Tensor]]] = (),
) -> Iterator[tuple[str, Factor | Tensor]]:
    """Merge adapters site by site, in the order of the sites' names; no more than one site's result is held.

    An adapter that lacks a site adds nothing there, and is not among those that a merge which is not linear sees at that site.

    Args:
        merge: The bound merge.
        adapters: Each adapter's factors or dense deltas by site; at least one.
        weights: Shape (adapter,).
        seed: For merges that draw random numbers; each site and adapter draws its own.
        base: Gives the base model's weight at a site, shape (out, in), for merges that need it.
        states: Each adapter's states, by site and name, for merges that need them.

    Yields:
        Site, and factors where a linear or ``low_rank`` merge has factors only, else the dense delta in float32.
    """
    for site in sorted({site for adapter in adapters for site in adapter}):
        having = [number for number, adapter in enumerate(adapters) if site in adapter]
        absent = nothing(adapters[having[0]][site])
        if merge.last_apart and having[-1] < len(adapters) - 1:
            having = [*having, len(adapters) - 1]
        deltas = Deltas(
            [adapters[number].get(site, absent) for number in having],
            weights[having],
            seed=_site_seed(seed, site),
            base=base(site) if base and "base" in merge.needs else None,
            states=[states[number].get(site, {}) for number in having] if states else (),
            numbers=having,
        )
        if merge.linear:
            # Weights are normalised over all adapters, also where one of them lacks the site.
            yield site, _add_up(deltas.adapters, merge.coefficients(weights)[having])
        else:
            yield site, _in_tiles(merge, deltas) if merge.by_rows else merge.merge(deltas)


def _add_up(adapters: Sequence[Factor | Tensor], coefficients: Tensor) -> Factor | Tensor:
    factors = [adapter for adapter in adapters if isinstance(adapter, Factor)]
    if len(factors) == len(adapters):
        return add_up(factors, coefficients.tolist())
    return weighted_sum(coefficients, Deltas(adapters, coefficients))


def _in_tiles(merge: Merge, deltas: Deltas) -> Tensor:
    out, inner = deltas.adapters[0].shape
    parts = list(row_tiles(out, inner, _TILE))
    # Fresh memory for every product costs more than the product: pages are handed out anew each time.
    dtype = working(*deltas.adapters)
    buffer, merged = torch.empty(parts[0].stop, inner, dtype=dtype), torch.empty(out, inner, dtype=dtype)
    for part in parts:
        base = deltas.base[part] if deltas.base is not None else None
        given = replace(deltas, rows=part, base=base, buffer=buffer)
        merged[part] = merge.merge(given)  # type: ignore[assignment]  # by rows it is no pair of factors
    return merged


def _site_seed(seed: int, site: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}/{site}".encode()).digest()[:7], "big")
