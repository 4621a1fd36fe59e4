"""What every merge must do (layer L3)."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from clora_cli import merges
from clora_cli.algebra.lora import Factor
from clora_cli.base import registry
from clora_cli.base.errors import ArtifactError, OptionError
from clora_cli.merges import Deltas, Merge, merge_sites
from clora_cli.testing.requirements import ClassTests, draw, refuses, require, same_bytes

__all__ = ["MergeTests"]

_SITES = {"layers.0.q_proj": (6, 5), "layers.0.v_proj": (4, 7)}
_Adapter = Mapping[str, Factor | Tensor]


class MergeTests(ClassTests):
    """Tests for each merge."""

    kind: ClassVar[str] = "merges"

    def test_what_it_says_of_itself_goes_together(self, name: str) -> None:
        merge = registry.load("merges", name)()
        require(not (merge.linear and merge.by_rows), "a linear merge is not computed by rows")
        require(not (merge.low_rank and (merge.linear or merge.by_rows)), "low_rank is said of other merges than these")
        require(merge.linear or not merge.refactors, "only a linear merge can be cut to the adapters' rank by default")

    @pytest.mark.parametrize("form", ["factors", "dense"])
    def test_inputs_stay_as_they_were(self, plugin: Merge, form: str) -> None:
        adapters: list[_Adapter] = [adapter if form == "factors" else _dense(adapter) for adapter in _factors()]
        weights, states = _weights(plugin, 3), _states(plugin, 3)
        base = {site: _base(site) for site in _SITES}

        def flat() -> list[Tensor]:
            parts = [delta for adapter in adapters for delta in adapter.values()]
            tensors = [
                tensor for part in parts for tensor in ([part.a, part.b] if isinstance(part, Factor) else [part])
            ]
            kept = [tensor for state in states for by_name in state.values() for tensor in by_name.values()]
            return [tensor.clone() for tensor in (*tensors, *kept, *base.values(), weights)]

        before = flat()
        first = _run(plugin, adapters, weights, states=states, base=base.__getitem__)
        require(all(map(torch.equal, before, flat())), "deltas, weights, states and base are to stay as they were")
        again = _run(plugin, adapters, weights, states=states, base=base.__getitem__)
        require(same_bytes(again, first), "the same call is to give the same bytes")

    @pytest.mark.parametrize(
        ("given", "taken"),
        [(torch.float64, torch.float64), (torch.float32, torch.float32), (torch.bfloat16, torch.float32)],
    )
    def test_shape_and_dtype(self, plugin: Merge, given: torch.dtype, taken: torch.dtype) -> None:
        result = _run(plugin, [_dense(adapter) for adapter in _factors(dtype=given)])
        require({site: tuple(delta.shape) for site, delta in result.items()} == _SITES, "every site keeps its shape")
        require(
            all(delta.dtype == taken for delta in result.values()), f"of {given} deltas the result is to be {taken}"
        )
        require(all(bool(delta.isfinite().all()) for delta in result.values()), "every entry is to be finite")

    def test_a_base_of_lower_precision_is_taken(self, plugin: Merge) -> None:
        result = _run(plugin, _factors(dtype=torch.float32), base=lambda site: _base(site).bfloat16())
        exact = _run(plugin, _factors(), base=lambda site: _base(site).bfloat16().double())
        close = [torch.allclose(result[site].double(), exact[site], rtol=1e-3, atol=1e-4) for site in _SITES]
        require(all(close), "bfloat16 weights of the base model are to be computed with in float32")

    def test_nothing_merges_to_nothing(self, plugin: Merge) -> None:
        zero = [_changed(adapter, lambda f: Factor(f.a, torch.zeros_like(f.b), f.scaling)) for adapter in _factors()]
        require(
            not any(bool(delta.any()) for delta in _run(plugin, zero).values()), "deltas of 0 are to merge to exactly 0"
        )

    @pytest.mark.parametrize("factor", [2.0, -3.0])
    def test_deltas_times_a_number_give_the_result_times_it(self, plugin: Merge, factor: float) -> None:
        times = [_changed(adapter, lambda f: Factor(f.a, f.b, f.scaling * factor)) for adapter in _factors()]
        expected = {site: delta * factor for site, delta in _run(plugin, _factors()).items()}
        require(
            _close(_run(plugin, times), expected),
            f"all deltas times {factor:g} are to give the result times {factor:g}",
        )

    def test_flipping_both_factors_of_an_adapter_changes_nothing(self, plugin: Merge) -> None:
        first, second, third = _factors()
        flipped = _changed(second, lambda f: Factor(-f.a, -f.b, f.scaling))
        same = same_bytes(_run(plugin, [first, flipped, third]), _run(plugin, [first, second, third]))
        require(same, "the result is to depend on the product B A alone")

    def test_the_order_of_adapters_does_not_matter(self, plugin: Merge) -> None:
        if plugin.ordered or _by_chance(plugin):
            return
        adapters, weights, states, order = _factors(), _weights(plugin, 3), _states(plugin, 3), [2, 0, 1]
        permuted = _run(plugin, [adapters[i] for i in order], weights[order], states=[states[i] for i in order])
        require(_close(permuted, _run(plugin, adapters, weights, states=states)), "another order gives another result")

    def test_the_seed_is_the_only_chance(self, plugin: Merge) -> None:
        first = _run(plugin, _factors(), seed=1)
        torch.manual_seed(7)
        require(same_bytes(_run(plugin, _factors(), seed=1), first), "draw random numbers by Deltas.generator alone")

    def test_adapters_and_sites_draw_numbers_of_their_own(self, plugin: Merge) -> None:
        if not _by_chance(plugin):
            return
        shape = (20, 20)
        adapters: list[_Adapter] = [{site: torch.ones(shape) for site in _SITES}] * 2
        first, second = _run(plugin, adapters[:1], torch.ones(1)).values()
        require(not torch.equal(first, second), "two sites are to draw different numbers")
        both = _run(plugin, adapters, torch.tensor([1.0, 3.0]))["layers.0.q_proj"]
        proportional = torch.allclose(both / both.norm(), first / first.norm(), rtol=1e-5)
        require(not proportional, "two adapters are to draw different numbers: pass generator the adapter's number")

    def test_factors_dense_deltas_and_a_mixture_give_the_same(self, plugin: Merge) -> None:
        adapters = _factors()
        expected = _run(plugin, adapters)
        whole: list[_Adapter] = [_dense(adapter) for adapter in adapters]
        require(_close(_run(plugin, whole), expected), "dense deltas are to give what their factors give")
        mixed: list[_Adapter] = [adapters[0], whole[1], adapters[2]]
        require(_close(_run(plugin, mixed), expected), "factors and dense deltas are to mix")

    @pytest.mark.parametrize("tile", [1, 10])
    def test_tiles_of_rows_change_no_bit(self, plugin: Merge, tile: int, monkeypatch: pytest.MonkeyPatch) -> None:
        first, second, third = _factors()
        adapters: list[_Adapter] = [first, _dense(second), third]
        untiled = _run(plugin, adapters)
        monkeypatch.setattr(merges, "_TILE", tile)
        tiled = _run(plugin, adapters)
        require(same_bytes(tiled, untiled), "by_rows says that a row depends on that row of the deltas alone")
        whole = {site: plugin.merge(_deltas(plugin, adapters, site)) for site in _SITES if plugin.by_rows}
        require(same_bytes(tiled, _dense(whole) or tiled), "tiles are to give what all rows at once give")

    def test_an_adapter_that_lacks_a_site_adds_nothing_there(self, plugin: Merge) -> None:
        first, second, third = _factors()
        site, other = _SITES
        weights = _weights(plugin, 3)
        result = _run(plugin, [first, second, {other: third[other]}], weights)
        require(set(result) == set(_SITES), "a site that one adapter has is a site of the result")
        require(
            torch.equal(result[other], _run(plugin, [first, second, third], weights)[other]), "another site changed"
        )
        if plugin.linear or plugin.last_apart:
            nothing: _Adapter = {site: torch.zeros(_SITES[site], dtype=torch.float64), other: third[other]}
            expected = _run(plugin, [first, second, nothing], weights)
        else:
            expected = _run(plugin, [first, second], weights[:2])
        require(torch.allclose(result[site], expected[site], rtol=1e-12), "who lacks a site is to take no part there")

    def test_a_site_depends_on_that_site_alone(self, plugin: Merge) -> None:
        site = "layers.0.v_proj"
        alone = _run(plugin, [{site: adapter[site]} for adapter in _factors()])
        require(torch.equal(alone[site], _run(plugin, _factors())[site]), "another site changes the result of this one")

    def test_deltas_are_held_a_few_at_a_time(self, plugin: Merge) -> None:
        if plugin.linear:
            return
        adapters = [draw(4, 3, seed=i, dtype=torch.float32) for i in range(12)]
        states = [{name: torch.ones(4, 3) for name in _kept(plugin)}] * 12
        deltas = _Watched(adapters, torch.ones(12), base=draw(4, 3, dtype=torch.float32), states=states)
        plugin.merge(deltas)
        require(1 <= deltas.most <= 3, f"of 12 deltas {deltas.most} are held at one time; keep at most 3")

    def test_what_it_needs_and_does_not_get_is_named(self, plugin: Merge) -> None:
        if "base" in plugin.needs:
            with refuses(OptionError, "base model", "the merge is to ask for the base model"):
                _run(plugin, _factors(), base=None)
        for name in _kept(plugin):
            states = _states(plugin, 3)
            lacking = {
                site: {key: value for key, value in kept.items() if key != name} for site, kept in states[1].items()
            }
            with refuses(ArtifactError, f"adapter 2 .*'{name}'", "read states by Deltas.state"):
                _run(plugin, _factors(), states=[states[0], lacking, states[2]])


class _Watched(Deltas):
    """Deltas that remember how many of them were alive at one time."""

    most = 0

    def __iter__(self) -> Iterator[Tensor]:
        seen: list[Any] = []
        for delta in super().__iter__():
            seen.append(weakref.ref(delta))
            alive = sum(reference() is not None for reference in seen)
            object.__setattr__(self, "most", max(self.most, alive))
            yield delta


def _factors(dtype: torch.dtype = torch.float64) -> list[dict[str, Factor]]:
    """Return adapters of different ranks and scalings."""
    generator = torch.Generator().manual_seed(0)

    def draw_next(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(dtype)

    return [
        {
            site: Factor(draw_next(rank, inner), draw_next(out, rank), 0.5 + rank)
            for site, (out, inner) in _SITES.items()
        }
        for rank in (2, 3, 1)
    ]


def _dense(adapter: _Adapter) -> dict[str, Tensor]:
    return {
        site: (delta.b * delta.scaling) @ delta.a if isinstance(delta, Factor) else delta
        for site, delta in adapter.items()
    }


def _changed(adapter: Mapping[str, Factor], function: Callable[[Factor], Factor]) -> dict[str, Factor]:
    return {site: function(factor) for site, factor in adapter.items()}


def _weights(merge: Merge, count: int) -> Tensor:
    """Return different weights of both signs, or ones where the merge refuses them."""
    try:
        weights = torch.tensor([1.0, -0.5, 2.0, 0.25][:count])
        if merge.linear:
            merge.coefficients(weights)
    except OptionError:
        return torch.ones(count)
    return weights


def _kept(merge: Merge) -> set[str]:
    return set(merge.needs) - {"base"}


def _states(merge: Merge, count: int) -> list[dict[str, dict[str, Tensor]]]:
    """Return what the merge needs of each adapter's state, no number of it below 0.1."""
    return [
        {
            site: {name: draw(*shape, seed=i, dtype=torch.float32).abs() + 0.1 for name in _kept(merge)}
            for site, shape in _SITES.items()
        }
        for i in range(count)
    ]


def _base(site: str) -> Tensor:
    return draw(*_SITES[site], seed=len(_SITES[site]), dtype=torch.float32)


def _deltas(merge: Merge, adapters: Sequence[_Adapter], site: str) -> Deltas:
    states = [state[site] for state in _states(merge, len(adapters))]
    return Deltas(
        [adapter[site] for adapter in adapters], _weights(merge, len(adapters)), base=_base(site), states=states
    )


def _run(
    merge: Merge,
    adapters: Sequence[_Adapter],
    weights: Tensor | None = None,
    *,
    states: Sequence[Mapping[str, Mapping[str, Tensor]]] | None = None,
    seed: int = 0,
    base: Callable[[str], Tensor] | None = _base,
) -> dict[str, Tensor]:
    """Merge and return every site's dense delta."""
    weights = _weights(merge, len(adapters)) if weights is None else weights
    states = _states(merge, len(adapters)) if states is None else states
    return _dense(dict(merge_sites(merge, adapters, weights, seed=seed, base=base, states=states)))


def _close(left: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> bool:
    return set(left) == set(right) and all(
        torch.allclose(left[site], right[site], rtol=1e-9, atol=1e-12) for site in left
    )


def _by_chance(merge: Merge) -> bool:
    """Tell whether the result depends on the seed."""
    return not same_bytes(_run(merge, _factors(), seed=1), _run(merge, _factors(), seed=2))
