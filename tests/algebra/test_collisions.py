"""Sampled collisions: estimates beside the exact counts, their intervals, and what does not depend on the sample."""

from __future__ import annotations

import pytest
import torch
from refusals import refused

from clora_cli.algebra.collisions import count_collisions, margin, sampled_rows
from clora_cli.algebra.comparison import survey
from clora_cli.algebra.lora import Factor

SHARES = ("collision_rate", "same_signs", "opposite_signs")


def drawn(seed, shape=(300, 40)):
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(3, shape[1], generator=generator)
    return Factor(a, torch.randn(shape[0], 3, generator=generator), 0.5)


@pytest.fixture(scope="module")
def adapters():
    return {str(number): {"q": drawn(number), "v": drawn(number + 50, (90, 20))} for number in range(5)}


def test_an_estimate_from_two_of_four_rows_by_hand():
    # Per row, one and two positions collide in the sampled rows 1 and 3; all of equal signs.
    one = torch.tensor([[1.0, 1.0], [1.0, 0.0], [1.0, 1.0], [1.0, 1.0]])
    found = count_collisions([one, one], 0.5, rows=torch.tensor([1, 3]))
    assert found.earlier[:, 1].tolist() == [6.0, 6.0, 0.0]  # four rows' worth of a mean of 1.5
    # N (N - n) / n times the sample's variance, (0.25 + 0.25) / 1
    assert found.earlier_variance[:, 1].tolist() == [4 * 2 / 2 * 0.5, 4 * 2 / 2 * 0.5, 0.0]
    assert margin(4.0) == pytest.approx(1.96 * 2)


def test_estimates_lie_within_their_interval_nearly_always(adapters):
    exact = survey(adapters, scope="collisions")
    assert (exact.rows, exact.margin) == (0, 0)
    inside = total = 0
    for rows in (20, 30, 40, 60, 80):
        found = survey(adapters, scope="collisions", rows=rows)
        for k in range(1, 5):
            for one, other in ((found.pairs[k][0], exact.pairs[k][0]), (found.earlier[k], exact.earlier[k])):
                differences = [abs(getattr(one, name) - getattr(other, name)) for name in SHARES]
                inside += sum(difference <= found.margin for difference in differences)
                total += len(differences)
    assert inside >= 0.95 * total


def test_more_rows_narrow_the_interval_until_all_are_counted(adapters):
    margins = [survey(adapters, scope="earlier", rows=rows).margin for rows in (10, 40, 160, 300)]
    assert margins == sorted(margins, reverse=True)
    assert margins[-1] == 0
    assert survey(adapters, rows=300).earlier == survey(adapters).earlier


def test_a_narrower_scope_measures_the_same_shares(adapters):
    everything = survey(adapters)
    for scope in ("collisions", "earlier"):
        found = survey(adapters, scope=scope)
        for one, other in zip(found.earlier[1:], everything.earlier[1:], strict=True):
            assert [getattr(one, name) for name in SHARES] == [getattr(other, name) for name in SHARES]
            assert (one.awom, one.cosine, one.orthogonal_overlap) == (None, None, None)
        assert found.adapters == ()
    assert survey(adapters, scope="earlier").pairs == ()


def test_overlaps_are_exact_whatever_the_sample(adapters):
    exact, sampled = survey(adapters), survey(adapters, rows=10)
    for one, other in zip(exact.earlier[1:], sampled.earlier[1:], strict=True):
        assert (one.awom, one.cosine, one.orthogonal_overlap) == (other.awom, other.cosine, other.orthogonal_overlap)
    assert exact.adapters[0].generalized_sparsity == sampled.adapters[0].generalized_sparsity


def test_a_site_has_the_same_rows_whoever_asks():
    first = sampled_rows("model.layers.0.q_proj", 100, 10)
    assert torch.equal(first, sampled_rows("model.layers.0.q_proj", 100, 10))
    assert not torch.equal(first, sampled_rows("model.layers.1.q_proj", 100, 10))
    assert len(first.unique()) == 10 and torch.equal(first, first.sort().values)
    assert sampled_rows("q", 10, 10) is None and sampled_rows("q", 10, 0) is None


@pytest.mark.parametrize("rows", [1, -3])
def test_too_few_rows_for_an_interval_are_refused(adapters, rows):
    with refused("option-out-of-range", f"--sample-rows {rows}"):
        survey(adapters, rows=rows)
