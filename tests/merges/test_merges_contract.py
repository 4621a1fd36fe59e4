"""What every merge must do, whatever it is: parametrised over the folder, so that a new file is tested by being there."""

from __future__ import annotations

import dataclasses
import inspect
import weakref
from typing import Literal, get_args, get_origin

import pytest
import torch
from support import check_numbers_refused, check_options_documented, check_source_given

from clora_cli import merges
from clora_cli.algebra.lora import Factor
from clora_cli.base import registry
from clora_cli.base.errors import ArtifactError, OptionError
from clora_cli.merges import Deltas, Merge, merge_sites

NAMES = registry.names("merges")
SITES = {"layers.0.q_proj": (6, 5), "layers.0.v_proj": (4, 7)}
SHARES = {"density", "epsilon", "outliers"}
# Options under which nothing is dropped and nothing is scaled.
PLAIN = {"density": 1.0, "epsilon": 0.0, "outliers": 0.0, "parallel": 1.0, "orthogonal": 1.0}


def variants(name):
    """Return the merge with its defaults and with every choice of its closed options."""
    plugin = registry.load("merges", name)
    found = [plugin()]
    for option, parameter in registry.options(plugin).items():
        if get_origin(parameter.annotation) is Literal:
            found += [plugin(**{option: choice}) for choice in get_args(parameter.annotation)]
    return found


MERGES = [pytest.param(merge, id=f"{name}-{i}") for name in NAMES for i, merge in enumerate(variants(name))]


def is_random(merge):
    return "generator(" in inspect.getsource(type(merge))


def factors(seed=0, ranks=(2, 3, 1), dtype=torch.float64):
    """Return adapters of different ranks and scalings."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=generator).to(dtype)

    return [
        {site: Factor(draw(rank, inner), draw(out, rank), 0.5 + rank) for site, (out, inner) in SITES.items()}
        for rank in ranks
    ]


def dense(adapter):
    return {
        site: delta if torch.is_tensor(delta) else (delta.b * delta.scaling) @ delta.a
        for site, delta in adapter.items()
    }


def changed(adapter, function):
    return {site: function(factor) for site, factor in adapter.items()}


def weights_of(merge, count):
    """Return different weights of both signs where the merge takes any; ``sum`` takes none but 1."""
    try:
        weights = torch.tensor([1.0, -0.5, 2.0, 0.25][:count])
        if merge.linear:
            merge.coefficients(weights)
    except OptionError:
        return torch.ones(count)
    return weights


def states_of(adapters):
    generator = torch.Generator().manual_seed(8)
    return [{site: {"fisher": torch.rand(SITES[site], generator=generator) + 0.1} for site in SITES} for _ in adapters]


def base_of(site):
    return torch.randn(SITES[site], generator=torch.Generator().manual_seed(len(SITES[site])))


def run(merge, adapters, weights=None, *, states=None, seed=0, base=base_of):
    """Merge and return every site's dense delta."""
    weights = weights_of(merge, len(adapters)) if weights is None else weights
    states = states_of(adapters) if states is None else states
    return dense(dict(merge_sites(merge, adapters, weights, seed=seed, base=base, states=states)))


def same(left, right):
    """Whether two merged adapters have the same bytes."""
    assert set(left) == set(right)
    return all(torch.equal(left[site], right[site]) for site in left)


def close(left, right):
    assert set(left) == set(right)
    return all(torch.allclose(left[site], right[site], rtol=1e-9, atol=1e-12) for site in left)


@pytest.mark.parametrize("name", NAMES)
def test_defaults_construct_a_frozen_merge(name):
    merge = registry.load("merges", name)()
    assert isinstance(merge, Merge)
    assert merge == registry.load("merges", name)()
    assert set(merge.needs) <= {"base", "fisher"}
    assert not (merge.linear and merge.by_rows)
    assert merge.linear or not merge.refactors
    with pytest.raises((dataclasses.FrozenInstanceError, TypeError)):
        merge.linear = not merge.linear


@pytest.mark.parametrize("name", NAMES)
def test_options_are_keyword_only_typed_and_documented(name):
    check_options_documented("merges", name)


@pytest.mark.parametrize("name", NAMES)
def test_the_docstring_gives_its_formula_and_its_source(name):
    check_source_given("merges", name)
    plugin = registry.load("merges", name)
    assert plugin.__doc__.splitlines()[0] == registry.summary("merges", name)
    assert "``" in plugin.__doc__


@pytest.mark.parametrize("name", NAMES)
def test_numbers_out_of_range_are_refused(name):
    message = "^option {option}=.* of {name}: give a"
    check_numbers_refused(
        "merges", name, message, lambda option: ("nan", "inf", "-inf", *(("-1", "1.5") if option in SHARES else ()))
    )


@pytest.mark.parametrize("name", NAMES)
def test_a_scale_may_be_any_finite_number(name):
    plugin = registry.load("merges", name)
    for option in set(registry.options(plugin)) - SHARES:
        for text in ("-1", "0", "1e3"):
            merge = plugin(**registry.bind(plugin, name, {option: text}))
            assert getattr(merge, option) == float(text)


@pytest.mark.parametrize("merge", MERGES)
@pytest.mark.parametrize("form", [dict, dense])
def test_inputs_stay_as_they_were(merge, form):
    adapters = [form(adapter) for adapter in factors()]
    weights, states = weights_of(merge, 3), states_of(adapters)
    base = {site: base_of(site) for site in SITES}

    def flat():
        parts = [delta for adapter in adapters for delta in adapter.values()]
        tensors = [tensor for part in parts for tensor in ([part] if torch.is_tensor(part) else [part.a, part.b])]
        kept = [state[site]["fisher"] for state in states for site in SITES]
        return [tensor.clone() for tensor in (*tensors, *kept, *base.values(), weights)]

    before = flat()
    first = run(merge, adapters, weights, states=states, base=base.__getitem__)
    assert all(torch.equal(old, new) for old, new in zip(before, flat(), strict=True))
    assert same(run(merge, adapters, weights, states=states, base=base.__getitem__), first)


@pytest.mark.parametrize("merge", MERGES)
@pytest.mark.parametrize(
    ("given", "taken"),
    [(torch.float64, torch.float64), (torch.float32, torch.float32), (torch.bfloat16, torch.float32)],
)
def test_shape_and_dtype(merge, given, taken):
    result = run(merge, [dense(adapter) for adapter in factors(dtype=given)])
    assert {site: tuple(delta.shape) for site, delta in result.items()} == SITES
    assert all(delta.dtype == taken and bool(delta.isfinite().all()) for delta in result.values())


@pytest.mark.parametrize("merge", MERGES)
def test_a_base_of_lower_precision_is_taken(merge):
    result = run(merge, factors(dtype=torch.float32), base=lambda site: base_of(site).bfloat16())
    exact = run(merge, factors(), base=lambda site: base_of(site).bfloat16().double())
    assert all(torch.allclose(result[site].double(), exact[site], rtol=1e-3, atol=1e-4) for site in SITES)


@pytest.mark.parametrize("merge", MERGES)
def test_nothing_merges_to_nothing(merge):
    zero = [changed(adapter, lambda f: Factor(f.a, torch.zeros_like(f.b), f.scaling)) for adapter in factors()]
    assert all(not bool(delta.any()) for delta in run(merge, zero).values())


@pytest.mark.parametrize("merge", MERGES)
@pytest.mark.parametrize("factor", [2.0, -3.0])
def test_deltas_times_a_number_give_the_result_times_it(merge, factor):
    times = [changed(adapter, lambda f: Factor(f.a, f.b, f.scaling * factor)) for adapter in factors()]
    expected = {site: delta * factor for site, delta in run(merge, factors()).items()}
    assert close(run(merge, times), expected)


@pytest.mark.parametrize("name", NAMES)
def test_one_adapter_of_which_nothing_is_dropped_stays_itself(name):
    # neuro among them only with both parts' factors set to 1: by default it scales the orthogonal part by 3.
    plugin = registry.load("merges", name)
    merge = plugin(**{option: value for option, value in PLAIN.items() if option in registry.options(plugin)})
    (adapter,) = factors(ranks=(3,))
    assert close(run(merge, [adapter], torch.ones(1)), dense(adapter))


@pytest.mark.parametrize("merge", MERGES)
def test_flipping_both_factors_of_an_adapter_changes_nothing(merge):
    first, second, third = factors()
    flipped = changed(second, lambda f: Factor(-f.a, -f.b, f.scaling))
    assert same(run(merge, [first, flipped, third]), run(merge, [first, second, third]))


@pytest.mark.parametrize("merge", [param for param in MERGES if not is_random(param.values[0])])
def test_the_order_of_adapters_does_not_matter(merge):
    adapters, weights = factors(), weights_of(merge, 3)
    states = states_of(adapters)
    order = [2, 0, 1]
    permuted = run(merge, [adapters[i] for i in order], weights[order], states=[states[i] for i in order])
    assert close(permuted, run(merge, adapters, weights, states=states))


@pytest.mark.parametrize("merge", MERGES)
def test_the_seed_is_the_only_chance(merge):
    adapters = factors()
    first = run(merge, adapters, seed=1)
    torch.manual_seed(7)
    assert same(run(merge, adapters, seed=1), first)
    assert same(run(merge, adapters, seed=2), first) != is_random(merge)


@pytest.mark.parametrize("merge", [param for param in MERGES if is_random(param.values[0])])
def test_adapters_and_sites_draw_numbers_of_their_own(merge):
    shape = (20, 20)
    adapters = [{site: torch.ones(shape) for site in SITES}] * 2
    one, other = dict(merge_sites(merge, adapters[:1], torch.ones(1))).values()
    assert not torch.equal(one, other)
    both = dict(merge_sites(merge, adapters, torch.tensor([1.0, 3.0])))
    assert not torch.equal(both["layers.0.q_proj"] != 0, one != 0)


@pytest.mark.parametrize("merge", MERGES)
def test_factors_dense_deltas_and_a_mixture_give_the_same(merge):
    adapters = factors()
    expected = run(merge, adapters)
    assert close(run(merge, [dense(adapter) for adapter in adapters]), expected)
    assert close(run(merge, [adapters[0], dense(adapters[1]), adapters[2]]), expected)


@pytest.mark.parametrize("merge", MERGES)
@pytest.mark.parametrize("tile", [1, 10])
def test_tiles_of_rows_change_no_bit(merge, tile, monkeypatch):
    adapters = [factors()[0], dense(factors()[1]), factors()[2]]
    states = states_of(adapters)
    whole = {
        site: merge.merge(
            Deltas(
                [adapter[site] for adapter in adapters],
                weights_of(merge, 3),
                base=base_of(site),
                states=[state[site] for state in states],
            )
        )
        for site in SITES
        if merge.by_rows
    }
    untiled = run(merge, adapters, states=states)
    monkeypatch.setattr(merges, "_TILE", tile)
    tiled = run(merge, adapters, states=states)
    assert same(tiled, untiled)
    assert same(tiled, whole or tiled)


@pytest.mark.parametrize("merge", MERGES)
def test_an_adapter_that_lacks_a_site_adds_nothing_there(merge):
    first, second, third = factors()
    site, other = SITES
    lacking = {other: third[other]}
    weights = weights_of(merge, 3)
    result = run(merge, [first, second, lacking], weights)
    assert set(result) == set(SITES)
    assert torch.equal(result[other], run(merge, [first, second, third], weights)[other])
    if merge.linear:
        nothing = {site: torch.zeros(SITES[site], dtype=torch.float64), other: third[other]}
        expected = run(merge, [first, second, nothing], weights)
    else:
        expected = run(merge, [first, second], weights[:2])
    assert torch.allclose(result[site], expected[site], rtol=1e-12)


@pytest.mark.parametrize("merge", MERGES)
def test_a_site_depends_on_that_site_alone(merge):
    site = "layers.0.v_proj"
    alone = [{site: adapter[site]} for adapter in factors()]
    assert torch.equal(run(merge, alone)[site], run(merge, factors())[site])


class Watched(Deltas):
    """Deltas that remember how many of them were alive at one time."""

    def __iter__(self):
        seen = []
        for delta in super().__iter__():
            seen.append(weakref.ref(delta))
            alive = sum(reference() is not None for reference in seen)
            object.__setattr__(self, "most", max(getattr(self, "most", 0), alive))
            yield delta


@pytest.mark.parametrize("merge", [param for param in MERGES if not param.values[0].linear])
def test_deltas_are_held_a_few_at_a_time(merge):
    adapters = [{"s": torch.randn(4, 3)} for _ in range(12)]
    states = [{"fisher": torch.ones(4, 3)}] * 12
    deltas = Watched([a["s"] for a in adapters], torch.ones(12), base=torch.randn(4, 3), states=states)
    merge.merge(deltas)
    assert 1 <= deltas.most <= 3


@pytest.mark.parametrize("merge", [param for param in MERGES if param.values[0].needs])
def test_what_it_needs_and_does_not_get_is_named(merge):
    if "base" in merge.needs:
        with pytest.raises(OptionError, match="needs the base model's weights"):
            run(merge, factors(), base=None)
    else:
        with pytest.raises(ArtifactError, match="adapter 2 of the merge keeps no 'fisher'"):
            states = states_of(factors())
            run(merge, factors(), states=[states[0], {}, states[2]])
