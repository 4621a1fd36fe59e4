"""Merges in singular directions, and those in which order matters: by hand, on factors, and where public code goes wrong."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from refusals import refused
from support import write_random_adapter

from clora_cli.algebra.lora import Factor
from clora_cli.base import registry
from clora_cli.merges import Deltas, merge_sites
from clora_cli.merges.ties import Ties
from clora_cli.options import MergeOptions
from clora_cli.store.adapter_folder import read_adapter
from clora_cli.testing.requirements import draw
from clora_cli.transforming import merge_adapters, plan_merge

NAMES = ["iso-c", "knots", "opcm", "slerp", "tsv"]


def merged(name, adapters, weights=None, **options):
    weights = torch.ones(len(adapters)) if weights is None else torch.tensor(weights)
    ((_, delta),) = merge_sites(registry.load("merges", name)(**options), [{"s": one} for one in adapters], weights)
    return delta


def dense(delta):
    return delta.scaling * delta.b @ delta.a if isinstance(delta, Factor) else delta


def test_iso_c_by_hand():
    # diag(3, 1, 0) + diag(1, 3, 0): singular values 4 and 4; with weights 1 and 2: 5 and 7, both become 6
    adapters = [torch.diag(torch.tensor(sizes)).double() for sizes in ([3.0, 1, 0], [1.0, 3, 0])]
    assert torch.allclose(merged("iso-c", adapters, [1.0, 2.0]), torch.diag(torch.tensor([6.0, 6, 0]).double()))
    half = merged("iso-c", adapters, [1.0, 2.0], isotropy=0.5, scale=2.0)
    assert torch.allclose(half, 2 * torch.diag(torch.tensor([5.5, 6.5, 0]).double()))


def test_tsv_by_hand():
    # two columns of norm 1 at an angle of 60 degrees: the nearest orthonormal ones are 30 degrees apart from the middle by 45
    first = Factor(torch.tensor([[1.0, 0, 0, 0]]).double(), torch.tensor([[1.0], [0], [0], [0]]).double(), 2.0)
    turned = torch.tensor([[0.5], [3**0.5 / 2], [0], [0]]).double()
    second = Factor(torch.tensor([[0.0, 1, 0, 0]]).double(), turned, 3.0)
    found = dense(merged("tsv", [first, second]))
    angles = torch.tensor([30.0 - 45, 30.0 + 45]).deg2rad().double()
    expected = torch.zeros(4, 4).double()
    for column, (angle, size) in enumerate(zip(angles, (2, 3), strict=True)):
        expected[:2, column] = size * torch.stack([angle.cos(), angle.sin()])
    assert torch.allclose(found, expected)


def test_tsv_counts_a_direction_that_two_adapters_share_once_and_adds_no_arbitrary_one():
    one = Factor(draw(1, 6), draw(5, 1, seed=1), 1.0)
    assert torch.allclose(dense(merged("tsv", [one, one])), dense(one))


@pytest.mark.parametrize("name", ["dare", "dare-ties", "della"])
def test_a_layer_that_an_adapter_lacks_is_one_that_it_leaves_as_it_is(name):
    one, two = draw(5, 6).float(), draw(5, 6, seed=1).float()
    merge, weights = registry.load("merges", name)(), torch.tensor([2.0, 0.5, 1.0])
    ((_, lacking),) = merge_sites(merge, [{"s": one}, {}, {"s": two}], weights, seed=7)
    ((_, zero),) = merge_sites(merge, [{"s": one}, {"s": torch.zeros(5, 6)}, {"s": two}], weights, seed=7)
    assert torch.equal(lacking, zero)


@pytest.mark.parametrize("name", ["opcm", "slerp"])
def test_an_adapter_does_not_count_at_a_layer_that_it_lacks(name):
    one, two = draw(5, 6).float(), draw(5, 6, seed=1).float()
    merge, weights = registry.load("merges", name)(), torch.tensor([2.0, 0.5, 1.0])
    ((_, lacking),) = merge_sites(merge, [{"s": one}, {}, {"s": two}], weights)
    ((_, alone),) = merge_sites(merge, [{"s": one}, {"s": two}], weights[[0, 2]])
    assert torch.equal(lacking, alone)


def test_knots_is_ties_in_the_common_singular_basis():
    adapters = [draw(5, 6, seed=seed) for seed in range(3)]
    left, sizes, right = np.linalg.svd(torch.cat(adapters, dim=1).numpy(), full_matrices=False)
    parts = [torch.from_numpy(np.ascontiguousarray(part)) for part in np.split(right, 3, axis=1)]
    weights = torch.tensor([1.0, 0.5, 2.0])
    expected = torch.from_numpy(left * sizes) @ Ties(density=0.6).merge(Deltas(parts, weights))
    assert torch.allclose(merged("knots", adapters, weights.tolist(), density=0.6), expected)


def test_opcm_by_hand():
    # M = diag(3, 1): the first direction holds 3/4. Of the next delta the diagonal goes; off it nothing leads, as there is one
    # leading direction; norms sqrt(10) and sqrt(4 + 25 + 36 + 1).
    first = torch.diag(torch.tensor([3.0, 1.0])).double()
    second = torch.tensor([[2.0, 5.0], [6.0, 1.0]]).double()
    total = torch.tensor([[3.0, 5.0], [6.0, 1.0]]).double()
    size = (10**0.5 + 66**0.5) / 2
    assert torch.allclose(merged("opcm", [first, second]), total * size / 71**0.5)
    assert torch.allclose(merged("opcm", [first, second], alpha=1.0), first * size / 10**0.5)  # the whole block leads


def test_opcm_s_result_has_the_mean_norm_and_depends_on_the_order():
    adapters = [Factor(draw(2, 7, seed=seed), draw(6, 2, seed=seed + 9), 1.0 + seed) for seed in range(4)]
    found = dense(merged("opcm", adapters))
    norms = [float(dense(adapter).norm()) for adapter in adapters]
    assert float(found.norm()) == pytest.approx(sum(norms) / 4)
    assert not torch.allclose(found, dense(merged("opcm", adapters[::-1])))


@pytest.mark.parametrize("name", NAMES)
def test_factors_give_factors_of_no_more_than_the_sum_of_their_ranks(name):
    adapters = [Factor(draw(2, 40, seed=seed), draw(30, 2, seed=seed + 9), 1.0) for seed in range(3)]
    delta = merged(name, adapters)
    assert isinstance(delta, Factor) and delta.rank == 6
    assert torch.allclose(dense(delta), dense(merged(name, [dense(adapter) for adapter in adapters])))


@pytest.mark.parametrize("name", ["iso-c", "opcm"])
def test_a_merge_of_folders_is_a_lora_folder(name, backbone, tmp_path):
    base = backbone("llama")
    members = [
        write_random_adapter(tmp_path / task, base, stage=stage) for stage, task in ((1, "first"), (2, "second"))
    ]
    merge_adapters(plan_merge(members, MergeOptions(out=tmp_path / "out", strategy=name)))
    folder = read_adapter(tmp_path / "out")
    assert not folder.is_dense
    for site, factor in folder.factors().items():
        expected = merged(name, [member.factors()[site] for member in members])
        assert torch.allclose(factor.delta(), dense(expected), atol=1e-6)


def test_sign_part_by_hand():
    # P = (2, -1, 0, 3); of the last delta's entries the first and the third agree, the second and the fourth do not
    first, second = torch.tensor([[1.0, 1.0, 0.0, 3.0]]), torch.tensor([[1.0, -2.0, 0.0, 0.0]])
    last = torch.tensor([[4.0, 1.0, 2.0, -3.0]])
    by = {keep: merged("sign-part", [first, second, last], keep=keep) for keep in ("same", "opposite", "both")}
    assert by["same"].tolist() == [[6.0, -1.0, 2.0, 3.0]]
    assert by["opposite"].tolist() == [[2.0, 0.0, 0.0, 0.0]]
    assert by["both"].tolist() == [[6.0, 0.0, 2.0, 0.0]]
    # of the smallest half, 1 and 2
    assert merged("sign-part", [first, second, last], keep="both", share=0.5).tolist() == [[2.0, 0.0, 2.0, 3.0]]


def test_slerp_by_hand():
    # from 2 along x halfway to 4 along y: 45 degrees, norm 3; then a third of the way to 3 along x: 15 degrees back
    adapters = [
        torch.tensor([[2.0, 0.0]]).double(),
        torch.tensor([[0.0, 4.0]]).double(),
        torch.tensor([[3.0, 0.0]]).double(),
    ]
    for count, degrees in ((2, 45.0), (3, 30.0)):
        angle = torch.tensor(degrees).double().deg2rad()
        expected = 3 * torch.stack([angle.cos(), angle.sin()])[None]
        assert torch.allclose(merged("slerp", adapters[:count]), expected)


def test_slerp_of_what_is_in_line_is_the_line():
    one = torch.tensor([[1.0, 2.0]]).double()
    assert torch.allclose(merged("slerp", [one, 3 * one]), 2 * one)
    assert torch.allclose(merged("slerp", [one, -one]), 0 * one)
    assert torch.allclose(merged("slerp", [0 * one, one]), one / 2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_slerp_has_no_direction_where_opposite_adapters_leave_only_rounding(dtype):
    one, opposite, last = (draw(2, 7, seed=seed).to(dtype) for seed in (1, 1, 2))
    b = draw(5, 2, seed=3).to(dtype)
    adapters = [Factor(one, b, 1.7), Factor(opposite, -b, 1.7), Factor(last, b, 1.0)]
    expected = dense(adapters[2]) / 3  # from 0, a third of the way
    assert torch.allclose(dense(merged("slerp", adapters)), expected, atol=1e-6)


def test_knots_elects_no_sign_where_opposite_adapters_leave_only_rounding():
    a, b = draw(2, 7, seed=1), draw(5, 2, seed=3)
    pair = [Factor(a, b, 1.7), Factor(a, -b, 1.7)]
    assert dense(merged("knots", pair, density=1.0)).abs().max() < 1e-6
    other = Factor(draw(2, 7, seed=4), draw(5, 2, seed=5), 1.0)
    # where all three have entries that of the third decides, and is averaged with the one that has its sign
    factored = dense(merged("knots", [*pair, other], density=1.0))
    assert torch.allclose(
        factored, dense(merged("knots", [dense(one) for one in (*pair, other)], density=1.0)), atol=1e-5
    )


def test_sign_part_marks_the_last_adapters_entries_also_where_it_has_none():
    merge = registry.load("merges", "sign-part")(keep="opposite")
    first, second = torch.tensor([[1.0, -2.0]]), torch.tensor([[2.0, 1.0]])
    adapters = [{"s": first}, {"s": second}, {"other": first}]
    found = dict(merge_sites(merge, adapters, torch.ones(3)))
    assert found["s"].tolist() == [[3.0, -1.0]]  # all of the earlier ones; the second is not the last
    assert found["other"].tolist() == [[0.0, 0.0]]


@pytest.mark.parametrize("weights", [[0.1, 0.2, -0.3], [1.0, -1.0, 0.0]])
def test_average_divides_by_no_sum_that_is_rounding(weights):
    with refused("merge-weights-sum-to-zero"):
        merged("average", [torch.ones(1, 1)] * 3, weights)
    assert merged("average", [torch.ones(1, 1)] * 3, [0.1, 0.2, -0.2]).item() == pytest.approx(1)
