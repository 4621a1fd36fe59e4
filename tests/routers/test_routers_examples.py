"""Each similarity against numbers worked out by hand, and the Mahalanobis distance against its definition."""

from __future__ import annotations

import math

import pytest
import torch

from clora_cli.algebra.statistics import Groups, Moments, Prototypes
from clora_cli.base import registry


def moments(*means, scatters=None, count=2):
    scatters = scatters or [None] * len(means)
    tensors = [torch.tensor(mean, dtype=torch.float64) for mean in means]
    return [Moments(count, mean, scatter) for mean, scatter in zip(tensors, scatters, strict=True)]


def similarity(name, known, *inputs, **options):
    given = inputs[0] if torch.is_tensor(inputs[0]) else torch.tensor(inputs)
    return registry.load("routers", name)(**options).fit(Prototypes(known))(given)


def clouds(adapters=3, size=5, rows=40, second="full", seed=0):
    """Return vectors whose features hang together, and their moments."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(size, size, generator=generator, dtype=torch.float64)
    centres = torch.randn(adapters, 1, size, generator=generator, dtype=torch.float64)
    vectors = centres + torch.randn(adapters, rows, size, generator=generator, dtype=torch.float64) @ mix
    return vectors, [Moments.of(one, second) for one in vectors]


def naive(vectors, given, shrinkage, second):
    """Return minus half the squared Mahalanobis distance, each step as it is defined."""
    size = vectors.shape[-1]
    deviations = torch.cat([one - one.mean(dim=0) for one in vectors])
    covariance = deviations.mT @ deviations / len(deviations)
    if second == "diag":
        covariance = covariance.diagonal().diag()
    shrunk = (1 - shrinkage) * covariance + shrinkage * covariance.trace() / size * torch.eye(size, dtype=torch.float64)
    inverse = torch.linalg.inv(shrunk)
    apart = given.double()[:, None] - torch.stack([one.mean(dim=0) for one in vectors])
    return -0.5 * torch.einsum("iaf,fg,iag->ia", apart, inverse, apart)


def test_l2_is_the_distance_itself_not_squared():
    """Eq. 4: from (3, 4) to (0, 0) it is 5, to (3, 0) it is 4."""
    found = similarity("l2", moments([0.0, 0.0], [3.0, 0.0]), [3.0, 4.0])
    assert found.tolist() == [[-5.0, -4.0]]


def test_l2_among_many_adapters_is_exact_for_the_nearest():
    generator = torch.Generator().manual_seed(3)
    means = 100 + torch.randn(400, 24, generator=generator, dtype=torch.float64)
    means[7] = means[311]
    inputs = torch.cat([means[311:312], 100 + torch.randn(3, 24, generator=generator, dtype=torch.float64)])
    found = similarity("l2", [Moments(2, mean, None) for mean in means], inputs)
    exact = -torch.cdist(inputs, means, compute_mode="donot_use_mm_for_euclid_dist")
    assert found.dtype == torch.float64
    assert found[0, 7].item() == found[0, 311].item() == 0.0
    assert torch.equal(found[:, 7], found[:, 311])
    best = exact.topk(32, dim=1)
    assert torch.allclose(found.gather(1, best.indices), best.values, rtol=1e-14, atol=0)
    assert torch.allclose(found, exact, rtol=1e-5, atol=0)


def test_l2_keeps_small_distances_far_from_the_origin():
    """A distance by the inner products would be lost to rounding here."""
    given = torch.tensor([[1e8 + 1, 1e8]], dtype=torch.float64)
    found = similarity("l2", moments([1e8 + 1, 1e8], [1e8 + 4, 1e8]), given)
    assert found.tolist() == [[0.0, -3.0]]


def test_dot_is_divided_by_the_root_of_the_width():
    """Eq. 5: (3, 4, 0, 0) . (1, 2, 5, 5) / sqrt(4) = 11 / 2."""
    found = similarity("dot", moments([1.0, 2.0, 5.0, 5.0], [0.0, 0.0, 0.0, 0.0]), [3.0, 4.0, 0.0, 0.0])
    assert found.tolist() == [[5.5, 0.0]]


def test_dot_prefers_a_long_mean_to_a_near_one():
    known = moments([1.0, 1.0], [10.0, 10.0])
    assert similarity("dot", known, [1.0, 1.0]).argmax().item() == 1
    assert similarity("l2", known, [1.0, 1.0]).argmax().item() == 0


def test_cosine_leaves_lengths_out():
    """(3, 4) against (30, 40), (4, 3) and (-4, 3): 1, 24 / 25 and 0."""
    found = similarity("cosine", moments([30.0, 40.0], [4.0, 3.0], [-4.0, 3.0]), [3.0, 4.0], [0.0, 0.0])
    torch.testing.assert_close(found[0], torch.tensor([1.0, 0.96, 0.0], dtype=torch.float64))
    assert found[1].tolist() == [0.0, 0.0, 0.0]


def test_mahalanobis_by_hand():
    """C = diag(2, 8) from two scatters over four inputs; shrinkage 0.5 makes it diag(3.5, 6.5).

    From (1, 1) to the mean (0, 0): -(1 / 3.5 + 1 / 6.5) / 2; to (1, 3): -(4 / 6.5) / 2.
    """
    scatters = [torch.tensor([2.0, 20.0], dtype=torch.float64), torch.tensor([6.0, 12.0], dtype=torch.float64)]
    for second in (scatters, [one.diag() for one in scatters]):
        known = moments([0.0, 0.0], [1.0, 3.0], scatters=second)
        found = similarity("mahalanobis", known, [1.0, 1.0], shrinkage=0.5)
        expected = torch.tensor([[-(1 / 3.5 + 1 / 6.5) / 2, -(4 / 6.5) / 2]], dtype=torch.float64)
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("second", ["diag", "full"])
@pytest.mark.parametrize("shrinkage", [1e-6, 0.01, 0.5, 1.0])
def test_mahalanobis_equals_its_definition(second, shrinkage):
    vectors, known = clouds(second=second)
    given = torch.randn(7, 5, generator=torch.Generator().manual_seed(4)) * 3
    found = similarity("mahalanobis", known, given, shrinkage=shrinkage)
    torch.testing.assert_close(found, naive(vectors, given, shrinkage, second), rtol=1e-9, atol=1e-9)


def test_mahalanobis_with_the_identity_for_covariance_is_half_the_squared_distance():
    known = moments([0.0, 0.0], [3.0, 0.0], [0.0, 5.0], scatters=[2 * torch.eye(2, dtype=torch.float64)] * 3)
    given = torch.randn(20, 2, generator=torch.Generator().manual_seed(0))
    found, distance = similarity("mahalanobis", known, given), similarity("l2", known, given)
    torch.testing.assert_close(found, -distance.square() / 2)
    assert torch.equal(found.argsort(dim=1), distance.argsort(dim=1))


def test_mahalanobis_sees_through_an_invertible_map_of_the_features():
    """Whatever mixes and scales the features; the distance to a mean does not: l2 changes."""
    vectors, known = clouds()
    mapping = torch.randn(5, 5, generator=torch.Generator().manual_seed(8), dtype=torch.float64) * 3
    shift = torch.full((5,), 7.0, dtype=torch.float64)
    mapped = [Moments.of(one @ mapping + shift, "full") for one in vectors]
    given = vectors[:, :4].flatten(0, 1)
    before = similarity("mahalanobis", known, given, shrinkage=1e-10)
    after = similarity("mahalanobis", mapped, given @ mapping + shift, shrinkage=1e-10)
    torch.testing.assert_close(before, after, rtol=1e-5, atol=1e-5)
    plain = similarity("l2", known, given), similarity("l2", mapped, given @ mapping + shift)
    assert not torch.allclose(*plain, rtol=0.1)


def test_mahalanobis_is_the_log_posterior_of_equal_gaussians():
    """At temperature 1 differences of similarities are log ratios of the Gaussians' densities."""
    vectors, known = clouds(adapters=2)
    given = vectors[0, :5]
    found = similarity("mahalanobis", known, given, shrinkage=1e-12)
    covariance = Prototypes(known).covariance
    densities = [
        torch.distributions.MultivariateNormal(one.mean, covariance_matrix=covariance).log_prob(given) for one in known
    ]
    torch.testing.assert_close(found[:, 0] - found[:, 1], densities[0] - densities[1], rtol=1e-6, atol=1e-6)


def test_mahalanobis_takes_an_indefinite_covariance():
    """Noise for privacy's sake may leave one: below the ridge counts as the ridge, other directions stay as they are."""
    axes = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64))[0]
    scatter = 2 * (axes * torch.tensor([4.0, 2.0, -1.0], dtype=torch.float64)) @ axes.mT
    assert torch.linalg.eigvalsh(scatter).min() < 0
    known = moments([0.0, 0.0, 0.0], scatters=[scatter])
    ridge = 0.1 * 5 / 3  # trace / size
    expected = torch.tensor([0.9 * 4 + ridge, 0.9 * 2 + ridge, ridge], dtype=torch.float64)
    found = similarity("mahalanobis", known, axes.mT.contiguous(), shrinkage=0.1)
    torch.testing.assert_close(found[:, 0], -0.5 / expected)


def test_mahalanobis_takes_negative_variances():
    known = moments([0.0, 0.0], scatters=[torch.tensor([4.0, -1.0], dtype=torch.float64)])
    found = similarity("mahalanobis", known, torch.eye(2), shrinkage=0.1)
    ridge = 0.1 * (2.0 - 0.5) / 2
    torch.testing.assert_close(found[:, 0], torch.tensor([-0.5 / (0.9 * 2 + ridge), -0.5 / ridge], dtype=torch.float64))


@pytest.mark.parametrize("second", ["diag", "full"])
def test_the_pooled_covariance_adds_up_across_packages(second):
    """Counts and scatters of two packages, and of parts of an adapter's inputs, give what all vectors give at once."""
    vectors, known = clouds(adapters=4, rows=30, second=second)
    deviations = torch.cat([one - one.mean(dim=0) for one in vectors])
    expected = deviations.mT @ deviations / len(deviations)
    expected = expected.diagonal() if second == "diag" else expected
    torch.testing.assert_close(Prototypes(known).covariance, expected)
    left, right = Prototypes(known[:1]).covariance, Prototypes(known[1:]).covariance
    torch.testing.assert_close(Prototypes(known).covariance, (30 * left + 90 * right) / 120)
    halves = [Moments.of(one[:7], second) + Moments.of(one[7:], second) for one in vectors]
    torch.testing.assert_close(Prototypes(halves).covariance, expected)


def test_an_adapter_of_many_inputs_has_more_say_in_the_pooled_covariance():
    few, many = Moments.of(torch.tensor([[0.0], [2.0]]), "diag"), Moments.of(torch.zeros(6, 1), "diag")
    assert Prototypes([few, many]).covariance.item() == pytest.approx(2 / 8)


def test_far_means_do_not_cost_mahalanobis_its_precision():
    vectors, known = clouds()
    far = torch.full((5,), 1e6, dtype=torch.float64)
    moved = [Moments(one.count, one.mean + far, one.scatter) for one in known]
    given = vectors[0, :6]
    found = similarity("mahalanobis", moved, given + far)
    torch.testing.assert_close(found, similarity("mahalanobis", known, given), rtol=1e-6, atol=1e-6)
    assert not math.isnan(found.sum().item())


def test_task_vectors_are_compared_by_cosine_whatever_the_features_length():
    """E(x) = (3, 4) / 5 from a mean of (30, 40): 0.6 and 0.8 with the axes, 0.96 with (4, 3) / 5."""
    found = similarity("task-vector", moments([1.0, 0.0], [0.0, 1.0], [0.8, 0.6]), [30.0, 40.0])
    torch.testing.assert_close(found[0], torch.tensor([0.6, 0.8, 0.96], dtype=torch.float64))


def test_what_routers_know_adapters_by():
    reads = {name: registry.load("routers", name)().reads for name in registry.names("routers")}
    others = {name: what for name, what in reads.items() if what != "features"}
    assert others == {"task-vector": "task-vector", "arrow": "factors"}


def grouped(*means, second=None, counts=None):
    """Return moments of inputs whose groups lie at these means, of two inputs each, without any spread but a given one."""
    means = torch.tensor(means, dtype=torch.float64)
    counts = torch.full((len(means),), 2) if counts is None else torch.tensor(counts)
    mean = (counts[:, None] * means).sum(dim=0) / counts.sum()
    return Moments(int(counts.sum()), mean, second, Groups(counts, means))


def test_epi_by_hand():
    """Without second moments half the squared distance to the nearest mean: from (4, 0) to (3, 0) of the first, (4, 2) of the second."""
    found = similarity("epi", [grouped([-3.0, 0.0], [3.0, 0.0]), grouped([4.0, 2.0])], [4.0, 0.0])
    torch.testing.assert_close(found, torch.tensor([[-0.5, -2.0]], dtype=torch.float64))


def test_classes_far_apart_are_no_spread_under_epi():
    """Two classes at -10 and 10, each spread by 1: an input at 9 is theirs, though a task at 5 is nearer to it than their mean."""
    far = grouped([-10.0], [10.0], second=torch.tensor([4 * 100.0 + 4 * 1.0]).double())
    near = grouped([5.0], second=torch.tensor([2.0]).double())
    # (404 - 400 + 2) / 6 inputs = 1: from 9 to 10 it is -1/2, to 5 it is -16/2
    found = similarity("epi", [far, near], [9.0], shrinkage=1e-9)
    torch.testing.assert_close(found, torch.tensor([[-0.5, -8.0]], dtype=torch.float64))
    assert similarity("mahalanobis", [far, near], [9.0], shrinkage=1e-9).argmax() == 1


@pytest.mark.parametrize("second", ["diag", "full"])
def test_adapters_of_one_mean_go_under_epi_as_under_mahalanobis(second):
    vectors, known = clouds(second=second)
    given = vectors[:, :3].flatten(0, 1)
    torch.testing.assert_close(similarity("epi", known, given), similarity("mahalanobis", known, given))


def test_adapters_of_different_second_moments_go_under_epi_by_their_means_alone():
    _, diagonal = clouds(second="diag")
    _, full = clouds(second="full", seed=1)
    _, plain = clouds(second="none")
    given = torch.randn(4, 5, generator=torch.Generator().manual_seed(1))
    mixed = similarity("epi", [diagonal[0], full[1]], given)
    means = [Moments(one.count, one.mean) for one in (diagonal[0], full[1])]
    torch.testing.assert_close(mixed, -similarity("l2", means, given).square() / 2)
    assert similarity("epi", plain, given).shape == (4, 3)
