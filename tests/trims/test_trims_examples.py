from __future__ import annotations

import torch
from refusals import refused

from clora_cli.base import registry
from clora_cli.trims import Entries


def kept(text, values, reference=None, seed=0):
    reference = None if reference is None else torch.tensor(reference)
    found = registry.bound("trims", text).keep(Entries(torch.tensor(values), reference, seed))
    assert not found.warning
    return found.mask.nonzero().flatten().tolist()


def test_density_keeps_the_largest_and_of_equal_ones_the_earlier():
    assert kept("density,density=0.5", [1.0, -3.0, 2.0, 0.0]) == [1, 2]
    assert kept("density,density=0.5", [2.0, 1.0, -1.0, 1.0, -1.0, 0.0]) == [0, 1, 2]
    assert kept("density,density=0.01", [1.0, -3.0]) == [1]


def test_magnitude_keeps_what_reaches_the_threshold():
    assert kept("magnitude,threshold=2", [1.99, -2.0, 2.0, 5.0, 0.0]) == [1, 2, 3]
    assert kept("magnitude,threshold=9", [1.99, -2.0]) == []
    # 0.1 is no float32; an entry written as 0.1 reaches it all the same.
    assert kept("magnitude,threshold=0.1", [0.1, 0.05]) == [0]


def test_magnitude_wants_a_threshold():
    with refused("option-missing", "magnitude", "threshold"):
        registry.bound("trims", "magnitude").keep(Entries(torch.ones(2)))


def test_sign_keeps_what_agrees_and_what_the_reference_leaves_open():
    values = [1.0, 1.0, 1.0, -1.0, -1.0, -1.0, 0.0, 0.0]
    reference = [2.0, -2.0, 0.0, 2.0, -2.0, 0.0, 0.0, 1.0]
    assert kept("sign", values, reference) == [0, 2, 4, 5]
    assert kept("sign,undecided=drop", values, reference) == [0, 4]
    # The product of the two is 0 in float32, their signs are not.
    assert kept("sign,undecided=drop", [1e-30, -1e-30], [1e-30, 1e-30]) == [0]


def test_random_draws_a_share_with_every_entry_as_likely():
    draws = torch.zeros(20)
    for seed in range(600):
        chosen = kept("random,density=0.25", [1.0] * 20, seed=seed)
        assert len(chosen) == 5
        draws[chosen] += 1
    # Of 600 draws each entry is in 150; five standard deviations are 53.
    assert (draws - 150).abs().max() < 53
    assert kept("random,density=0.25", [1.0] * 20, seed=1) != kept("random,density=0.25", [1.0] * 20, seed=2)
