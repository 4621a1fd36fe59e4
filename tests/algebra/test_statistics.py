from __future__ import annotations

import functools
import operator

import pytest
import torch

from clora_cli.algebra.statistics import SECOND_MOMENTS, Groups, Moments, Prototypes


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def naive(vectors, second):
    mean = vectors.mean(dim=0)
    products = sum(torch.outer(one - mean, one - mean) for one in vectors)
    return mean, {"none": None, "diag": products.diagonal(), "full": products}[second]


@pytest.mark.parametrize("second", SECOND_MOMENTS)
@pytest.mark.parametrize("parts", [(40,), (1, 39), (39, 1), (1,) * 40, (13, 0, 20, 7)])
def test_parts_add_up_to_the_whole_however_it_is_cut(second, parts):
    vectors = draw(40, 5) * 3 + 100  # far from 0: a sum of squares would lose what the deviations keep
    nothing = Moments(0, torch.zeros(5, dtype=torch.float64), naive(vectors[:1], second)[1])
    found = [Moments.of(part, second) if len(part) else nothing for part in vectors.split(parts)]
    total = functools.reduce(operator.add, found)
    mean, scatter = naive(vectors, second)
    assert (total.count, total.second) == (40, second)
    assert torch.allclose(total.mean, mean, rtol=1e-13)
    if scatter is not None:
        assert torch.allclose(total.scatter, scatter, rtol=1e-11, atol=1e-10)


def test_the_order_of_parts_does_not_matter():
    parts = [Moments.of(draw(count, 4, seed=count) + count, "full") for count in (3, 8, 1, 20)]
    forward, backward = (functools.reduce(operator.add, order) for order in (parts, parts[::-1]))
    assert forward.count == backward.count
    assert torch.allclose(forward.mean, backward.mean, rtol=1e-13)
    assert torch.allclose(forward.scatter, backward.scatter, rtol=1e-12)


def test_a_far_offset_costs_no_accuracy():
    vectors = draw(1000, 3)
    near, far = (
        functools.reduce(operator.add, (Moments.of(part, "diag") for part in (vectors + offset).split(7)))
        for offset in (0, 1e6)
    )
    assert torch.allclose(near.scatter, far.scatter, rtol=1e-8)


def test_half_precision_vectors_are_added_up_in_double():
    vectors = torch.full((4096, 2), 0.1, dtype=torch.bfloat16)
    found = Moments.of(vectors, "full")
    assert (found.mean.dtype, found.scatter.dtype) == (torch.float64, torch.float64)
    assert torch.equal(found.mean, vectors[0].double())


def test_moments_without_second_ones_drop_the_others():
    total = Moments.of(draw(3, 2), "full") + Moments.of(draw(4, 2))
    assert (total.count, total.second, total.scatter) == (7, "none", None)


@pytest.mark.parametrize("second", ["diag", "full"])
def test_the_pooled_covariance_is_about_each_sets_own_mean(second):
    sets = [draw(30, 3, seed=1), draw(50, 3, seed=2) + 1000]
    pooled = Prototypes(Moments.of(one, second) for one in sets).covariance
    deviations = torch.cat([one - one.mean(dim=0) for one in sets])
    expected = deviations.mT @ deviations / 80
    assert torch.allclose(pooled, expected if second == "full" else expected.diagonal(), rtol=1e-9)


def in_groups(vectors, owner, second):
    counts = owner.bincount()
    means = torch.stack([vectors[owner == number].double().mean(dim=0) for number in range(len(counts))])
    whole = Moments.of(vectors, second)
    return Moments(whole.count, whole.mean, whole.scatter, Groups(counts, means))


@pytest.mark.parametrize("second", ["diag", "full"])
def test_the_covariance_within_groups_is_about_their_own_means(second):
    vectors = torch.randn(2, 12, 3, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    owner = torch.tensor([0, 1, 2] * 4)
    found = Prototypes(in_groups(one, owner, second) for one in vectors).within
    apart = torch.cat([one[owner == n] - one[owner == n].mean(dim=0) for one in vectors for n in range(3)])
    expected = apart.mT @ apart / 24
    torch.testing.assert_close(found, expected.diagonal() if second == "diag" else expected)


def test_groups_of_two_sets_stay_apart_and_one_without_is_one_group():
    vectors = torch.arange(8.0)[:, None]
    first = in_groups(vectors[:6], torch.tensor([0, 0, 0, 1, 1, 1]), "none")
    both = first + Moments.of(vectors[6:]) + Moments(0, torch.zeros(1, dtype=torch.float64))
    assert both.groups.counts.tolist() == [3, 3, 2]
    assert both.groups.means.flatten().tolist() == [1.0, 4.0, 6.5]
    assert (Moments.of(vectors) + Moments.of(vectors)).groups is None
