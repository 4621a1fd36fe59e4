"""Every merge against the published definition, written out entry by entry, and against sums done by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from refusals import refused

from clora_cli.algebra.lora import Factor
from clora_cli.base import registry
from clora_cli.merges import Deltas, merge_sites

COUNT, ROWS, COLUMNS = 4, 5, 6
WEIGHTS = torch.tensor([1.0, 0.5, 2.0, 0.25])
SEED = 11


def build(name, **options):
    return registry.load("merges", name)(**options)


def case(seed):
    """Return dense deltas with no equal magnitudes, what merges need beside them, and some rows of zeros in the base."""
    generator = torch.Generator().manual_seed(seed)
    adapters = list(torch.randn(COUNT, ROWS, COLUMNS, generator=generator, dtype=torch.float64))
    base = torch.randn(ROWS, COLUMNS, generator=generator, dtype=torch.float64)
    base[1] = 0
    fisher = torch.rand(COUNT, ROWS, COLUMNS, generator=generator)
    fisher[:, 0, 0] = 0
    return Deltas(adapters, WEIGHTS, seed=SEED, base=base, states=[{"fisher": f} for f in fisher])


def largest(delta, count, skip=0):
    """Keep the entries that come after the ``skip`` largest, as many as ``count``."""
    order = sorted(np.ndindex(delta.shape), key=lambda at: -abs(delta[at]))
    kept = np.zeros_like(delta)
    for at in order[skip : skip + count]:
        kept[at] = delta[at]
    return kept


def drawn(given, number):
    return torch.rand(ROWS, COLUMNS, generator=given.generator(number)).numpy()


def elected(entries, weights):
    """Merge the adapters' values at one position as TIES does."""
    total = sum(w * x for w, x in zip(weights, entries, strict=True))
    agree = [(w, x) for w, x in zip(weights, entries, strict=True) if x * total > 0]
    return sum(w * x for w, x in agree) / sum(w for w, _ in agree) if agree else 0.0


def by_entry(function, arrays):
    weights = WEIGHTS.tolist()
    result = np.empty_like(arrays[0])
    for at in np.ndindex(result.shape):
        result[at] = function([array[at] for array in arrays], weights)
    return result


def summed(arrays):
    return sum(w * array for w, array in zip(WEIGHTS.tolist(), arrays, strict=True))


def naive_della(array, uniform, density, epsilon):
    kept = np.zeros_like(array)
    for row, column in np.ndindex(array.shape):
        rank = sum(abs(other) > abs(array[row, column]) for other in array[row])
        gone = 1 - density - epsilon / 2 + epsilon * rank / COLUMNS
        if uniform[row, column] < 1 - gone:
            kept[row, column] = array[row, column] / (1 - gone)
    return kept


def naive_fisher(arrays, given):
    information = [state["fisher"].double().numpy() for state in given.states]
    result = np.empty_like(arrays[0])
    for at in np.ndindex(result.shape):
        shares = [w * f[at] for w, f in zip(WEIGHTS.tolist(), information, strict=True)]
        shares = shares if sum(shares) else WEIGHTS.tolist()
        result[at] = sum(s * array[at] for s, array in zip(shares, arrays, strict=True)) / sum(shares)
    return result


def naive_neuro(arrays, base, parallel, orthogonal):
    along, rest = [], []
    for array in arrays:
        projection = np.zeros_like(array)
        for row, weight in enumerate(base):
            if weight.any():
                projection[row] = weight * (array[row] @ weight) / (weight @ weight)
        along.append(projection)
        rest.append(array - projection)
    return parallel * by_entry(elected, along) + orthogonal * by_entry(elected, rest)


def naive(name, given, density):
    """Return what a merge is defined to be."""
    arrays = [delta.numpy() for delta in given]
    count = round(density * ROWS * COLUMNS)
    chances = [drawn(given, number) for number in range(COUNT)]
    dared = [np.where(u < density, x / density, 0) for u, x in zip(chances, arrays, strict=True)]
    epsilon = min(0.2, 2 * density, 2 - 2 * density)
    sampled = [naive_della(x, u, density, epsilon) for u, x in zip(chances, arrays, strict=True)]
    outliers = min(0.1, 1 - density)
    return {
        "average": lambda: summed(arrays) / float(WEIGHTS.sum()),
        "linear": lambda: summed(arrays),
        "svd": lambda: summed(arrays),
        "magmax": lambda: by_entry(
            lambda xs, ws: max((w * x for w, x in zip(ws, xs, strict=True)), key=abs),
            arrays,
        ),
        "ties": lambda: 0.7 * by_entry(elected, [largest(x, count) for x in arrays]),
        "magnitude": lambda: summed([largest(x, count) for x in arrays]),
        "breadcrumbs": lambda: 0.7 * summed([largest(x, count, round(outliers * 30)) for x in arrays]),
        "dare": lambda: summed(dared),
        "dare-ties": lambda: 0.7 * by_entry(elected, dared),
        "della": lambda: 0.7 * by_entry(elected, sampled),
        "fisher": lambda: naive_fisher(arrays, given),
        "neuro": lambda: naive_neuro([largest(x, count) for x in arrays], given.base.numpy(), 0.7, 2.0),
    }[name]()


@pytest.mark.parametrize(
    "name",
    [
        name
        for name in registry.names("merges")
        if name != "sum" and not build(name).low_rank and not build(name).ordered
    ],
)
@pytest.mark.parametrize("density", [0.2, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("seed", [0, 1])
def test_it_is_the_published_definition(name, density, seed):
    given = case(seed)
    plugin = registry.load("merges", name)
    chosen = {
        "density": density,
        "scale": 0.7,
        "epsilon": round(min(0.2, 2 * density, 2 - 2 * density), 9),
        "outliers": round(min(0.1, 1 - density), 9),
        "parallel": 0.7,
        "orthogonal": 2.0,
    }
    merge = plugin(**{option: value for option, value in chosen.items() if option in registry.options(plugin)})
    if merge.linear:
        ((_, result),) = merge_sites(merge, [{"s": delta} for delta in given], WEIGHTS)
    else:
        result = merge.merge(given)
    np.testing.assert_allclose(result.numpy(), naive(name, given, density), rtol=1e-9, atol=1e-12)


def one_site(merge, *deltas, weights=None, **given):
    deltas = [torch.tensor(delta, dtype=torch.float64) for delta in deltas]
    weights = torch.tensor(weights if weights is not None else [1.0] * len(deltas))
    if merge.linear:
        ((_, result),) = merge_sites(merge, [{"s": delta} for delta in deltas], weights)
        return result.tolist()
    return merge.merge(Deltas(deltas, weights, **given)).tolist()


THREE = ([[4.0, -3.0, 1.0, 0.5]], [[-1.0, 5.0, 2.0, 0.1]], [[2.0, -4.0, 0.3, -1.0]])


def test_ties_by_hand():
    # Of each the two largest stay: (4, -3, 0, 0), (0, 5, 2, 0), (2, -4, 0, 0); sums 6, -2, 2, 0.
    assert one_site(build("ties", density=0.5), *THREE) == [[3.0, -3.5, 2.0, 0.0]]
    assert one_site(build("ties", density=0.5, scale=-2), *THREE) == [[-6.0, 7.0, -4.0, 0.0]]
    # With weights 1, 2, 1 the second column's sum is 3: its sign is the other one.
    assert one_site(build("ties", density=0.5), *THREE, weights=[1.0, 2.0, 1.0]) == [[3.0, 5.0, 2.0, 0.0]]


def test_magmax_by_hand():
    assert one_site(build("magmax"), *THREE) == [[4.0, 5.0, 2.0, -1.0]]
    assert one_site(build("magmax"), [[1.0, -2.0]], [[-1.0, 2.0]]) == [[-1.0, 2.0]]
    assert one_site(build("magmax"), *THREE, weights=[1.0, 1.0, -2.0]) == [[-4.0, 8.0, 2.0, 2.0]]


def test_breadcrumbs_by_hand():
    delta = [[1.0, -2.0, 3.0, -4.0, 5.0], [-6.0, 7.0, -8.0, 9.0, -10.0]]
    kept = [[0.0, 0.0, 0.0, 0.0, 0.0], [-6.0, 7.0, -8.0, 0.0, 0.0]]
    assert one_site(build("breadcrumbs", density=0.3, outliers=0.2), delta) == kept
    twice = [[2 * entry for entry in row] for row in kept]
    assert one_site(build("breadcrumbs", density=0.3, outliers=0.2, scale=2), delta) == twice


def test_della_probabilities_by_hand():
    # p = 0.5, from p - 0.2 for the largest of a row in steps of epsilon / n = 0.1; kept with 1 - p.
    chances = build("della", density=0.5, epsilon=0.4).chances(
        torch.tensor([[3.0, -1.0, 2.0, -4.0], [0.0, 0.0, 1.0, 0.0]])
    )
    assert torch.allclose(chances, torch.tensor([[0.6, 0.4, 0.5, 0.7], [0.6, 0.5, 0.7, 0.4]]))


def test_neuro_by_hand():
    # Row 1 of the base lies on the first axis: 3 and 5 are parallel to it (mean 4), 1 and -4 are not (elected: -4).
    # Row 2 of the base is 0: all is orthogonal. Sums -2 and 4, so -3 alone and the mean of 2 and 2.
    deltas = [[3.0, 1.0], [1.0, 2.0]], [[5.0, -4.0], [-3.0, 2.0]]
    base = torch.tensor([[2.0, 0.0], [0.0, 0.0]])
    assert one_site(build("neuro"), *deltas, base=base) == [[4.0, -12.0], [-9.0, 6.0]]
    assert one_site(build("neuro", parallel=0, orthogonal=1), *deltas, base=base) == [[0.0, -4.0], [-3.0, 2.0]]


def test_fisher_by_hand():
    states = [{"fisher": torch.tensor([[1.0, 0.0, 3.0]])}, {"fisher": torch.tensor([[3.0, 0.0, 1.0]])}]
    deltas = [[4.0, 2.0, 1.0]], [[8.0, 6.0, 5.0]]
    assert one_site(build("fisher"), *deltas, states=states) == [[7.0, 4.0, 2.0]]
    weighted = one_site(build("fisher"), *deltas, states=states, weights=[1.0, 3.0])
    assert weighted == [[pytest.approx(7.6), 5.0, 3.0]]


def test_linear_kinds_by_hand():
    deltas = [[1.0, 2.0]], [[3.0, -4.0]]
    assert one_site(build("sum"), *deltas) == [[4.0, -2.0]]
    assert one_site(build("linear"), *deltas, weights=[1.0, -1.0]) == [[-2.0, 6.0]]
    assert one_site(build("average"), *deltas, weights=[1.0, 3.0]) == [[2.5, -2.5]]
    with refused("option-has-no-effect", "--strategy sum", "--weights"):
        one_site(build("sum"), *deltas, weights=[1.0, 0.5])
    with refused("merge-weights-sum-to-zero", "--strategy average"):
        one_site(build("average"), *deltas, weights=[1.0, -1.0])


def test_only_svd_cuts_the_rank_unasked():
    assert [name for name in registry.names("merges") if build(name).refactors] == ["svd"]


@pytest.mark.parametrize("name", ["sum", "linear", "average", "svd"])
def test_linear_kinds_of_factors_are_factors_of_all_ranks(name):
    adapters = [{"s": Factor(torch.randn(rank, 7), torch.randn(4, rank), 2.0)} for rank in (1, 3)]
    ((_, result),) = merge_sites(build(name), adapters, torch.ones(2))
    assert (result.rank, result.shape, result.scaling) == (4, (4, 7), 1.0)


RELATIVE = {"average", "ties", "dare-ties", "della", "fisher", "neuro", "knots"}


@pytest.mark.parametrize("name", sorted(set(registry.names("merges")) - {"sum"}))
def test_weights_are_relative_where_a_mean_is_taken(name):
    given = [delta.tolist() for delta in case(3)]
    beside = {"base": case(3).base, "states": case(3).states}
    merge = build(name)
    once, twice = (torch.tensor(one_site(merge, *given, weights=(WEIGHTS * c).tolist(), **beside)) for c in (1, 2))
    assert torch.allclose(twice, once * (1 if name in RELATIVE else 2), rtol=1e-6)


@pytest.mark.parametrize("name", sorted(RELATIVE - {"average"}))
def test_a_negative_weight_turns_an_adapter_around(name):
    first, second, *_ = (delta.tolist() for delta in case(4))
    turned = [[-entry for entry in row] for row in second]
    beside = {"base": case(4).base, "states": case(4).states[:2]}
    expected = one_site(build(name), first, turned, weights=[1.0, 2.0], **beside)
    assert one_site(build(name), first, second, weights=[1.0, -2.0], **beside) == expected


@pytest.mark.parametrize("name", sorted(RELATIVE - {"average"}))
def test_weights_of_nothing_give_nothing(name):
    beside = {"base": case(4).base, "states": case(4).states}
    result = one_site(build(name), *(delta.tolist() for delta in case(4)), weights=[0.0] * COUNT, **beside)
    assert not any(map(any, result))


@pytest.mark.parametrize("density", [0.01, 0.2, 1 / 3, 0.5, 0.999, 1.0])
def test_as_many_are_kept_as_asked_for(density):
    delta = (torch.randperm(1200, generator=torch.Generator().manual_seed(0)) + 1.0).view(30, 40)
    delta[::2] *= -1
    kept = build("magnitude", density=density).merge(Deltas([delta], torch.ones(1)))
    assert int((kept != 0).sum()) == round(density * 1200)
    assert torch.equal(kept[kept != 0], delta[kept != 0])
    assert float(kept.abs()[kept != 0].min()) == 1201 - round(density * 1200)


def test_few_and_equal_magnitudes():
    assert one_site(build("magnitude", density=1e-6), [[1.0, -3.0, 2.0]]) == [[0.0, -3.0, 0.0]]
    assert one_site(build("magnitude", density=0.25), [[2.0, -2.0, 2.0, 1.0]]) == [[2.0, -2.0, 2.0, 0.0]]


@pytest.mark.parametrize("name", ["dare", "dare-ties", "della"])
def test_at_density_1_no_entry_is_left_to_chance(name):
    options = {"density": 1.0} | ({"epsilon": 0.0} if name == "della" else {})
    delta = torch.ones(300, 300)
    assert torch.equal(build(name, **options).merge(Deltas([delta], torch.ones(1))), delta)


@pytest.mark.parametrize(("name", "options"), [("dare", {}), ("dare-ties", {}), ("della", {"epsilon": 0.0})])
def test_what_is_kept_by_chance_makes_up_for_what_is_not(name, options):
    # The mean of 40 000 entries has a standard deviation of sqrt(0.7 / 0.3 / 40000) = 0.008.
    kept = build(name, density=0.3, **options).merge(Deltas([torch.ones(200, 200)], torch.ones(1), seed=5))
    assert math.isclose(float(kept.mean()), 1, abs_tol=0.04)
    assert torch.allclose(kept.unique(), torch.tensor([0, 1 / 0.3]))


def test_della_drops_small_entries_more_often():
    delta = torch.tensor([4.0, -3.0, 2.0, -1.0]).repeat(10_000, 1)
    kept = build("della", density=0.5, epsilon=0.8).merge(Deltas([delta], torch.ones(1), seed=5))
    shares = (kept != 0).float().mean(dim=0)
    assert torch.allclose(shares, torch.tensor([0.9, 0.7, 0.5, 0.3]), atol=0.03)
    assert torch.allclose(kept.mean(dim=0), delta[0], rtol=0.1)


@pytest.mark.parametrize(
    ("name", "options", "named"),
    [
        ("ties", {"density": 2.0}, ["ties", "density=2.0", "(0, 1]"]),
        ("dare", {"density": 0.0}, ["dare", "density=0.0", "(0, 1]"]),
        ("breadcrumbs", {"density": 1.0}, ["breadcrumbs", "outliers=0.01", "from 0 to 0", "density=1.0"]),
        ("della", {"density": 0.95}, ["della", "epsilon=0.2", "from 0 to 0.1", "density=0.95"]),
    ],
)
def test_messages_say_what_to_give(name, options, named):
    with refused("option-out-of-range", *named):
        build(name, **options)


def test_limits_that_floats_miss_are_taken():
    assert build("della", density=0.9, epsilon=0.2).chances(torch.randn(3, 8)).max() <= 1
    assert build("breadcrumbs", density=0.9, outliers=0.1).outliers == 0.1
