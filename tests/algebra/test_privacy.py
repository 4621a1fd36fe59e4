from __future__ import annotations

import math

import pytest
import torch
from refusals import refused

from clora_cli.algebra import privacy
from clora_cli.algebra.privacy import Ball, Guarantee, delta_of, noise_multiplier, normal, release
from clora_cli.algebra.statistics import Moments

DRAWS = 2000


def points(count, size, seed=0):
    return torch.randn(count, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture
def silence(monkeypatch):
    """Take the noise away: what is left is what the noise is added to."""
    monkeypatch.setattr(privacy, "normal", lambda *shape: torch.zeros(*shape, dtype=torch.float64))


@pytest.fixture
def seeded(monkeypatch):
    """Make the noise the same in every run, so that what is measured of it is."""
    generator = torch.Generator().manual_seed(0)
    monkeypatch.setattr(privacy, "normal", lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64))


@pytest.mark.parametrize("epsilon", [0.1, 1.0, 4.0, 8.0, 20.0])
@pytest.mark.parametrize("sigma", [0.3, 1.0, 3.7, 12.0])
def test_delta_is_the_integral_that_defines_it(sigma, epsilon):
    # Of two neighbours' densities p and q, delta is the integral of max(0, p - exp(epsilon) q).
    x = torch.linspace(-40 * sigma, 1 + 40 * sigma, 2_000_001, dtype=torch.float64)
    density = lambda mean: torch.exp(-((x - mean) ** 2) / (2 * sigma**2)) / (sigma * math.sqrt(2 * math.pi))  # noqa: E731
    excess = (density(1) - math.exp(epsilon) * density(0)).clamp(min=0)
    assert delta_of(sigma, epsilon) == pytest.approx(torch.trapezoid(excess, x).item(), rel=1e-6, abs=1e-14)


@pytest.mark.parametrize("epsilon", [0.01, 0.5, 1.0, 4.0, 8.0, 50.0, 1000.0])
@pytest.mark.parametrize("delta", [1e-12, 1e-5, 0.1])
def test_the_noise_is_the_least_that_keeps_the_guarantee(epsilon, delta):
    sigma = noise_multiplier(epsilon, delta)
    assert delta_of(sigma, epsilon) <= delta * (1 + 1e-9)
    assert delta_of(sigma * 0.9999, epsilon) > delta
    if epsilon <= 1:  # where the classical bound holds at all, this one is below it
        assert sigma < math.sqrt(2 * math.log(1.25 / delta)) / epsilon


def test_less_noise_for_a_weaker_guarantee():
    by_epsilon = [noise_multiplier(epsilon, 1e-5) for epsilon in (0.1, 1, 8, 64)]
    by_delta = [noise_multiplier(1, delta) for delta in (1e-9, 1e-5, 1e-1)]
    assert by_epsilon == sorted(by_epsilon, reverse=True)
    assert by_delta == sorted(by_delta, reverse=True)


@pytest.mark.parametrize("second", ["diag", "full"])
def test_one_input_moves_mean_and_second_moments_by_no_more_than_one_together(second):
    x, z = (points(20000, 3, seed) for seed in (1, 2))
    x, z = (p / p.norm(dim=1, keepdim=True) * torch.rand(len(p), 1, dtype=torch.float64) ** 0.2 for p in (x, z))
    z[:10000] = -x[:10000] * torch.linspace(0.5, 1, 10000)[:, None]  # the neighbourhood of the worst case
    if second == "diag":
        apart = (x.square() - z.square()).norm(dim=1)
    else:
        apart = (x[:, :, None] * x[:, None] - z[:, :, None] * z[:, None]).flatten(1).norm(dim=1)
    moved = (x - z).square().sum(dim=1) / 4 + apart.square() / 8
    assert moved.max() <= 1 + 1e-12
    edge = x / x.norm(dim=1, keepdim=True)
    assert torch.allclose((edge + edge).square().sum(dim=1) / 4, torch.ones(len(x), dtype=torch.float64))


@pytest.mark.parametrize("second", ["none", "diag", "full"])
def test_without_noise_the_release_is_that_of_the_clipped_vectors(silence, second):
    vectors, ball = points(50, 4) + 10, Ball(torch.full((4,), 9.0, dtype=torch.float64), 1.5)
    away = vectors - 9
    clipped = 9 + away * (1.5 / away.norm(dim=1, keepdim=True)).clamp(max=1)
    found, expected = release(Moments.of(ball.clipped(vectors), second), ball, 1, 1e-3), Moments.of(clipped, second)
    assert (found.count, found.second) == (50, second)
    assert torch.allclose(found.mean, expected.mean, atol=1e-6)
    if second != "none":
        assert torch.allclose(found.scatter, expected.scatter, atol=1e-3)


def test_the_ball_is_placed_by_public_vectors_alone():
    public = torch.tensor([[0.0, 0.0], [6.0, 8.0]])
    ball = Ball.around(public, clip=2)
    assert (ball.centre.tolist(), ball.radius) == ([3, 4], 10)
    clipped = ball.clipped(torch.tensor([[3.0, 5.0], [3.0, 104.0], [3.0, 4.0]]))
    assert clipped.tolist() == [[0, 1], [0, 10], [0, 0]]


@pytest.mark.parametrize("second", ["none", "diag", "full"])
def test_the_noise_is_as_large_as_it_is_said_to_be(seeded, second):
    ball, sites, sigma, count = Ball(torch.zeros(3, dtype=torch.float64), 2.0), 4, 0.7, 25
    exact = Moments.of(ball.clipped(points(count, 3)), second)
    found = [release(exact, ball, sites, sigma) for _ in range(DRAWS)]
    off = torch.stack([one.mean for one in found]) - exact.mean
    spread = 2 * ball.radius * sigma * math.sqrt(sites) / count
    assert off.std(dim=0).tolist() == pytest.approx([spread] * 3, rel=0.07)
    assert off.mean(dim=0).abs().max() < 5 * spread / math.sqrt(DRAWS)
    if second == "none":
        return
    # Of the products about the centre: the scatter with the mean's square put back.
    square = (lambda v: v.square()) if second == "diag" else (lambda v: torch.outer(v, v))
    bias = torch.full((3,), spread**2, dtype=torch.float64)
    bias = bias if second == "diag" else bias.diag()
    products = torch.stack([one.scatter + count * (square(one.mean) - bias) for one in found])
    wide = math.sqrt(8) * ball.radius**2 * sigma * math.sqrt(sites)
    expected = torch.full((3,), wide) if second == "diag" else wide * (torch.eye(3) + (1 - torch.eye(3)) / math.sqrt(2))
    assert torch.allclose(products.std(dim=0).float(), expected, rtol=0.07)
    if second == "full":
        assert all(torch.equal(one.scatter, one.scatter.mT) for one in found)
    # The scatter itself is right on average, though the noisy mean's square is too large.
    scatter = torch.stack([one.scatter for one in found])
    error = (scatter.mean(dim=0) - exact.scatter).abs() / (scatter.std(dim=0) / math.sqrt(DRAWS))
    assert error.max() < 5


def test_an_onlooker_wins_as_often_as_the_guarantee_allows_and_no_more(seeded):
    # The worst case: two data sets that differ in one input, at opposite ends of the ball.
    epsilon, delta, draws = 0.5, 0.2, 4000
    sigma, ball = noise_multiplier(epsilon, delta), Ball(torch.zeros(1, dtype=torch.float64), 1.0)
    rest = points(9, 1)
    outcomes = []
    for end in (1.0, -1.0):
        exact = Moments.of(ball.clipped(torch.cat([rest, torch.tensor([[end]])])))
        outcomes.append(torch.cat([release(exact, ball, 1, sigma).mean for _ in range(draws)]) * 10)
    middle = (outcomes[0].mean() + outcomes[1].mean()) / 2
    threshold = middle + epsilon * (2 * sigma) ** 2 / 2  # the likelihood ratio is exp(epsilon) here
    share = [(one > threshold).double().mean().item() for one in outcomes]
    assert share[0] - math.exp(epsilon) * share[1] == pytest.approx(delta, abs=0.05)


def test_noise_comes_from_no_seed_and_is_normal():
    torch.manual_seed(0)
    first = normal(200, 500)
    torch.manual_seed(0)
    assert not torch.equal(first, normal(200, 500))
    assert (first.dtype, first.shape) == (torch.float64, (200, 500))
    assert abs(first.mean()) < 0.02 and abs(first.var() - 1) < 0.03
    assert abs(first.pow(4).mean() - 3) < 0.2
    assert (first.abs() > 1.959964).double().mean() == pytest.approx(0.05, abs=0.005)


def test_low_bits_of_a_release_tell_nothing():
    ball = Ball(torch.zeros(2, dtype=torch.float64), 1.0)
    mean = release(Moments(1, torch.full((2,), 1 / 3, dtype=torch.float64)), ball, 1, 0.5).mean
    assert torch.equal(mean * 2.0**20, (mean * 2.0**20).round())


def test_the_record_states_the_guarantee():
    balls = {"b": Ball(torch.zeros(2), 3.0), "a": Ball(torch.zeros(2), 1.5)}
    record = Guarantee(8, 1e-5, 0.5).recorded(balls)
    assert (record["epsilon"], record["delta"], record["clip"], record["sites"]) == (8, 1e-5, 0.5, 2)
    assert record["sigma"] == noise_multiplier(8, 1e-5)
    assert record["radius"] == {"a": 1.5, "b": 3.0}
    assert "1805.06530" in record["reference"]
    assert "weights" in record["limits"]


@pytest.mark.parametrize(
    ("values", "option"),
    [
        ((0, 1e-5), "--dp-epsilon 0"),
        ((math.inf, 1e-5), "--dp-epsilon inf"),
        ((math.nan, 1e-5), "--dp-epsilon nan"),
        ((1, 0), "--dp-delta 0"),
        ((1, 1), "--dp-delta 1"),
        ((1, 1e-5, 0), "--dp-clip 0"),
    ],
)
def test_impossible_guarantees_are_refused(values, option):
    with refused("option-out-of-range", option):
        Guarantee(*values)
