"""Measures on adapters: hand-computed examples, equality with naive dense formulae, and what must not change them."""

from __future__ import annotations

import math

import pytest
import torch
from refusals import refused

from clora_cli.algebra import collisions, overlaps
from clora_cli.algebra.comparison import compare, measure, survey
from clora_cli.algebra.lora import Factor

# Two deltas of 2 x 2: 2 * b @ a, so [[4, 2], [0, 0]], and the dense [[-1, 3], [0, 2]].
FACTOR = Factor(torch.tensor([[2.0, 1.0]]), torch.tensor([[1.0], [0.0]]), 2.0)
DENSE = torch.tensor([[-1.0, 3.0], [0.0, 2.0]])
OTHER = Factor(torch.tensor([[1.0, -3.0]]), torch.tensor([[1.0], [1.0]]), -1.0)  # [[-1, 3], [-1, 3]]


def drawn(seed, rank, shape=(7, 5), scaling=1.7):
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(rank, shape[1], generator=generator, dtype=torch.float64)
    b = torch.randn(shape[0], rank, generator=generator, dtype=torch.float64)
    return Factor(a, b, scaling)


def dense(delta):
    return delta.scaling * delta.b.double() @ delta.a.double() if isinstance(delta, Factor) else delta.double()


def adapters():
    """Three adapters: ranks differ, one site is missing in the second, one delta of the third is dense."""
    return {
        "one": {"q": drawn(1, 2), "v": drawn(2, 3, (4, 9))},
        "two": {"q": drawn(3, 6, scaling=-0.5)},
        "three": {"q": dense(drawn(4, 4)), "v": drawn(5, 1, (4, 9))},
    }


def naive(pairs, epsilon):
    """Compare lists of (delta, delta) by the definitions, on whole float64 matrices."""
    pairs = [(dense(one), dense(other)) for one, other in pairs]
    inner = sum((x * y).sum() for x, y in pairs)
    energies = [sum(pair[side].square().sum() for pair in pairs) for side in (0, 1)]
    marks = [[d.sign() * (d.abs() > epsilon * d.abs().max()) for d in pair] for pair in pairs]
    entries = sum(x.numel() for x, _ in pairs)
    return {
        "awom": sum(torch.linalg.matrix_norm(x.mT @ y) for x, y in pairs),
        "cosine": inner / (energies[0] * energies[1]).sqrt(),
        "collision_rate": sum((x * y != 0).sum().item() for x, y in marks) / entries,
        "same_signs": sum((x * y > 0).sum().item() for x, y in marks) / entries,
        "opposite_signs": sum((x * y < 0).sum().item() for x, y in marks) / entries,
    }


def test_every_measure_of_a_pair_by_hand():
    found = compare({"q": FACTOR}, {"q": OTHER}, epsilon=0.4)
    assert found.shared_sites == 1
    assert found.orthogonal_overlap == pytest.approx((2 * 1 - 1 * 3) ** 2)  # lora_A alone, without scalings
    # D_1^T D_2 = [[4, 0], [2, 0]] @ [[-1, 3], [-1, 3]] = [[-4, 12], [-2, 6]]
    assert found.awom == pytest.approx(math.sqrt(16 + 144 + 4 + 36))
    assert found.cosine == pytest.approx((-4 + 6) / math.sqrt(20 * 20))
    # At 0.4 the entries that count are [[4, 2], .] and the threes: one position, of one sign.
    assert (found.collision_rate, found.same_signs, found.opposite_signs) == (0.25, 0.25, 0)
    found = compare({"q": FACTOR}, {"q": OTHER}, epsilon=0)
    assert (found.collision_rate, found.same_signs, found.opposite_signs) == (0.5, 0.25, 0.25)


def test_a_pair_of_which_one_is_dense_by_hand():
    found = compare({"q": FACTOR}, {"q": DENSE}, epsilon=0)
    assert found.orthogonal_overlap is None
    assert found.awom == pytest.approx(math.sqrt(16 + 144 + 4 + 36))
    assert found.cosine == pytest.approx(2 / math.sqrt(20 * 14))
    assert (found.same_signs, found.opposite_signs) == (0.25, 0.25)


def test_the_measures_of_one_adapter_by_hand():
    found = measure({"q": FACTOR}, epsilon=0.6)
    assert (found.sites, found.density) == (1, 0.25)
    assert found.norm == pytest.approx(math.sqrt(20))
    assert found.generalized_sparsity == pytest.approx(6 / (2 * math.sqrt(20)))
    assert found.effective_rank == pytest.approx(1)
    assert found.stable_rank == pytest.approx(1)
    diagonal = measure({"q": torch.diag(torch.tensor([3.0, 1.0]))})
    assert diagonal.effective_rank == pytest.approx(math.exp(-0.75 * math.log(0.75) - 0.25 * math.log(0.25)))
    assert diagonal.stable_rank == pytest.approx(10 / 9)


@pytest.mark.parametrize("epsilon", [0, 0.03, 0.3])
def test_pairs_equal_the_definitions_on_dense_deltas(epsilon):
    given = adapters()
    found = survey(given, epsilon=epsilon)
    for i, one in enumerate(given.values()):
        for j, other in enumerate(given.values()):
            if i == j:
                assert found.pairs[i][j] is None
                continue
            shared = sorted(one.keys() & other.keys())
            for name, value in naive([(one[site], other[site]) for site in shared], epsilon).items():
                assert getattr(found.pairs[i][j], name) == pytest.approx(float(value), rel=1e-9), name
            assert found.pairs[i][j].shared_sites == len(shared)


def test_overlap_is_the_sum_over_sites_of_the_squared_products_of_lora_a():
    one, two = {"q": drawn(1, 2), "v": drawn(2, 3)}, {"q": drawn(3, 4), "v": drawn(4, 1)}
    expected = sum((one[site].a @ two[site].a.mT).square().sum() for site in "qv")
    assert compare(one, two).orthogonal_overlap == pytest.approx(float(expected))


def test_each_against_all_before_it_equals_the_definitions():
    given = adapters()
    found = survey(given, epsilon=0.1)
    one, two, three = given.values()
    assert found.earlier[0] is None
    assert found.earlier[1] == found.pairs[1][0]
    against = [(three["q"], dense(one["q"]) + dense(two["q"])), (three["v"], one["v"])]
    expected = naive(against, 0.1) | {"awom": found.pairs[2][0].awom + found.pairs[2][1].awom}
    for name, value in expected.items():
        assert getattr(found.earlier[2], name) == pytest.approx(float(value), rel=1e-9), name
    assert found.earlier[2].shared_sites == 2
    assert found.earlier[2].orthogonal_overlap is None


def test_the_overlap_with_all_before_is_the_sum_of_the_overlaps():
    given = {name: {"q": drawn(seed, 2)} for seed, name in enumerate("abc")}
    found = survey(given)
    expected = found.pairs[2][0].orthogonal_overlap + found.pairs[2][1].orthogonal_overlap
    assert found.earlier[2].orthogonal_overlap == pytest.approx(expected)


def test_adapters_before_that_cancel_leave_nothing_to_compare_with():
    plus = drawn(1, 2)
    minus = Factor(plus.a, plus.b, -plus.scaling)
    found = survey({"a": {"q": plus}, "b": {"q": minus}, "c": {"q": drawn(2, 2)}}).earlier
    assert found[1].cosine == pytest.approx(-1)
    assert found[1].opposite_signs == found[1].collision_rate > 0
    assert (found[2].collision_rate, found[2].opposite_signs) == (0, 0)


def test_own_measures_equal_the_definitions_on_dense_deltas():
    given = adapters()["one"]
    found = measure(given, epsilon=0.2)
    deltas = [dense(delta) for delta in given.values()]
    assert found.norm == pytest.approx(math.sqrt(sum(float(d.square().sum()) for d in deltas)))
    sparsities = [float(d.abs().sum() / d.norm()) / math.sqrt(d.numel()) for d in deltas]
    assert found.generalized_sparsity == pytest.approx(sum(sparsities) / 2)
    counted = sum(int((d.abs() > 0.2 * d.abs().max()).sum()) for d in deltas)
    assert found.density == counted / sum(d.numel() for d in deltas)
    effective, stable = [], []
    for delta in deltas:
        values = torch.linalg.svdvals(delta)
        shares = values[values > 1e-9] / values.sum()
        effective.append(math.exp(float(-(shares * shares.log()).sum())))
        stable.append(float(values.square().sum() / values[0] ** 2))
    assert found.effective_rank == pytest.approx(sum(effective) / 2)
    assert found.stable_rank == pytest.approx(sum(stable) / 2)


def test_generalized_sparsity_lies_between_a_single_entry_and_entries_of_one_magnitude():
    single = torch.zeros(6, 8)
    single[2, 3] = -5
    assert measure({"q": single}).generalized_sparsity == pytest.approx(1 / math.sqrt(48))
    signs = Factor(torch.tensor([[1.0, -1, 1, 1]]), torch.tensor([[1.0], [-1], [1]]), 0.3)
    assert measure({"q": signs}).generalized_sparsity == pytest.approx(1)
    for seed in range(20):
        between = measure({"q": drawn(seed, 1 + seed % 5, (6, 8))}).generalized_sparsity
        assert 1 / math.sqrt(48) <= between <= 1


def test_ranks_do_not_depend_on_how_a_delta_is_stored():
    factor = drawn(1, 3, (40, 30))
    as_factor, as_dense = measure({"q": factor}), measure({"q": dense(factor)})
    assert as_dense.effective_rank == pytest.approx(as_factor.effective_rank)
    assert as_dense.stable_rank == pytest.approx(as_factor.stable_rank)
    assert 1 <= as_factor.stable_rank <= as_factor.effective_rank <= 3


def test_an_adapter_of_zeros_has_no_sparsity_no_rank_and_no_cosine():
    zero = Factor(torch.ones(2, 5), torch.zeros(7, 2), 1.0)
    found = measure({"q": zero})
    assert (found.norm, found.density, found.generalized_sparsity, found.effective_rank) == (0, 0, None, None)
    against = compare({"q": zero}, {"q": drawn(1, 2)}, epsilon=0)
    assert (against.cosine, against.awom, against.collision_rate) == (None, 0, 0)


def test_sites_of_zeros_do_not_enter_the_means():
    zero = torch.zeros(7, 5)
    with_zero, without = measure({"q": drawn(1, 2), "v": zero}), measure({"q": drawn(1, 2)})
    assert with_zero.generalized_sparsity == without.generalized_sparsity
    assert with_zero.density == without.density / 2


def test_turning_both_signs_changes_nothing_and_turning_one_exchanges_the_shares():
    one, two = drawn(1, 2), drawn(2, 3)
    turned = [Factor(-factor.a, factor.b, factor.scaling) for factor in (one, two)]
    plain = compare({"q": one}, {"q": two})
    assert compare({"q": turned[0]}, {"q": turned[1]}) == plain
    half = compare({"q": one}, {"q": turned[1]})
    assert (half.same_signs, half.opposite_signs) == (plain.opposite_signs, plain.same_signs)
    assert half.cosine == pytest.approx(-plain.cosine)
    assert half.awom == pytest.approx(plain.awom)


def test_a_comparison_is_symmetric_and_of_itself_perfect():
    one, two = {"q": drawn(1, 2)}, {"q": drawn(2, 3)}
    assert vars(compare(one, two)) == pytest.approx(vars(compare(two, one)))
    itself = compare(one, one, epsilon=0.1)
    assert itself.cosine == pytest.approx(1)
    assert itself.collision_rate == itself.same_signs == measure(one, epsilon=0.1).density
    assert itself.opposite_signs == 0


def test_scaling_an_adapter_changes_no_share_and_no_cosine():
    one, two = drawn(1, 2), drawn(2, 3)
    louder = compare({"q": one}, {"q": Factor(two.a, two.b * 3, two.scaling * 2)})
    plain = compare({"q": one}, {"q": two})
    assert louder.cosine == pytest.approx(plain.cosine)
    assert (louder.same_signs, louder.opposite_signs) == (plain.same_signs, plain.opposite_signs)
    assert louder.awom == pytest.approx(6 * plain.awom)


@pytest.mark.parametrize("tile", [1, 11, 40])
def test_tiles_change_no_result(monkeypatch, tile):
    given = adapters()
    given["four"] = {"q": dense(drawn(6, 5)), "v": dense(drawn(7, 2, (4, 9)))}
    whole = survey(given)
    monkeypatch.setattr(overlaps, "_TILE", tile)
    monkeypatch.setattr(collisions, "_TILE", tile)
    tiled = survey(given)
    for one, other in zip(whole.adapters, tiled.adapters, strict=True):
        assert vars(one) == pytest.approx(vars(other))
    for i, row in enumerate(whole.pairs):
        for j in range(i):
            assert vars(row[j]) == pytest.approx(vars(tiled.pairs[i][j]))
    assert vars(whole.earlier[3]) == pytest.approx(vars(tiled.earlier[3]))


def test_half_precision_is_widened_before_it_is_multiplied():
    small = Factor(torch.full((1, 64), 1e-4, dtype=torch.float16), torch.full((64, 1), 1e-4, dtype=torch.float16), 1.0)
    assert measure({"q": small}).density == 1  # the product underflows in float16


def test_what_does_not_fit_is_refused():
    with refused("no-shared-site"):
        compare({"q": drawn(1, 2)}, {"v": drawn(2, 2)})
    with refused("layer-shapes-differ", "the first", "the second", "'q'"):
        compare({"q": drawn(1, 2)}, {"q": drawn(2, 2, (5, 7))})
    for epsilon in (-0.1, 1, math.nan):
        with refused("option-out-of-range", f"{epsilon:g}"):
            measure({"q": drawn(1, 2)}, epsilon=epsilon)


def test_pairs_that_share_no_site_have_no_comparison():
    found = survey({"a": {"q": drawn(1, 2)}, "b": {"v": drawn(2, 2)}, "c": {"q": drawn(3, 2)}})
    assert found.pairs[0][1] is None and found.earlier[1] is None
    assert found.earlier[2] == found.pairs[2][0]


def test_every_site_is_told():
    told = []
    survey(adapters(), advance=lambda done, status: told.append(done))
    assert told == [1, 1]
