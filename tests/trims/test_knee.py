from __future__ import annotations

import numpy as np
import pytest
import torch
from refusals import refused

from clora_cli.base import registry
from clora_cli.trims import Curve, Entries, _curve
from clora_cli.trims._curve import largest

FREE = "knee,minimum=none,maximum=none"


def keep(text, values):
    return registry.bound("trims", text).keep(Entries(torch.as_tensor(values, dtype=torch.float32)))


def places(text, values):
    return keep(text, values).mask.nonzero().flatten().tolist()


def heavy_tailed(seed, count=1000):
    generator = np.random.default_rng(seed)
    draw = generator.choice([generator.standard_normal, generator.standard_cauchy, generator.standard_exponential])
    return (draw(count) * generator.choice([-1, 1], count)).astype(np.float32)


def naive_knee(values):
    """Return the curve and the number of the point farthest below the chord, in float64, as the equation reads."""
    s = np.sort(np.abs(values.astype(np.float64)))[::-1]
    x = np.arange(1, len(s) + 1) / len(s)
    y = (s - s[-1]) / (s[0] - s[-1])
    return s, x, y, int(np.argmax(1 - x - y)) + 1


def test_the_knee_of_an_example_by_hand():
    # Descending they are 10 6 2.5 2 1 0 0 0 0 0, and 1 - x - y is -0.1 0.2 0.45 0.4 0.4 0.4 0.3 0.2 0.1 0.
    values = [0.0, 2.5, -6.0, 0.0, 2.0, 0.0, 10.0, -1.0, 0.0, 0.0]
    curve = Curve.of(torch.tensor(values))
    x, y = curve.points(np.arange(1, 11))
    assert x.tolist() == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]
    assert y.tolist() == [1.0, 0.6, 0.25, 0.2, 0.1, 0, 0, 0, 0, 0]
    assert curve.knee() == 3
    assert places(FREE, values) == [1, 2, 6]
    assert places(f"{FREE},ties=strict", values) == [2, 6]
    assert keep(FREE, values).warning == ""


def test_the_smallest_magnitude_is_the_curves_zero():
    shifted = [1.0, 3.5, -7.0, 1.0, 3.0, 1.0, 11.0, -2.0, 1.0, 1.0]
    assert places(FREE, shifted) == [1, 2, 6]


@pytest.mark.parametrize("seed", range(25))
def test_it_is_the_point_farthest_below_the_chord(seed):
    values = heavy_tailed(seed)
    *_, knee = naive_knee(values)
    mask = keep(FREE, values).mask
    assert Curve.of(torch.from_numpy(values)).knee() == knee == int(mask.sum())
    assert np.abs(values[mask]).min() > np.abs(values[~mask]).max()


@pytest.mark.parametrize("seed", range(5))
def test_equation_5_as_printed_leaves_an_empty_mask(seed):
    """argmax(x + y - 1) is the first point, whose magnitude is the largest, and eq. 6 keeps what exceeds it: nothing.

    Hence the knee is argmax(1 - x - y), the point farthest from the chord, as the paper's text describes it.
    """
    values = heavy_tailed(seed)
    s, x, y, knee = naive_knee(values)
    printed = int(np.argmax(x + y - 1)) + 1
    assert printed == 1
    assert not (np.abs(values) > s[printed - 1]).any()
    assert (np.abs(values) > s[knee - 1]).any()


@pytest.mark.parametrize("seed", range(10))
def test_equation_6_to_the_letter_keeps_one_entry_fewer(seed):
    # The farthest point is the first of any run of equal magnitudes, so nothing above it equals it.
    values = heavy_tailed(seed).round(1 if seed % 2 else 6)
    *_, knee = naive_knee(values)
    cap, strict = (keep(f"{FREE},ties={ties}", values).mask for ties in ("cap", "strict"))
    tie = float(np.sort(np.abs(values))[::-1][knee - 1])
    assert int(cap.sum()) == (knee if tie else knee - 1)
    assert int(strict.sum()) == knee - 1
    assert bool((cap | strict).equal(cap))


def test_of_equal_magnitudes_at_a_clamp_the_earlier_stay_or_none():
    values = [5.0, 1.0, -1.0, 1.0, -1.0, 1.0, 0.5, 0.25, 0.1, 0.1]
    assert places("knee,minimum=0.4,maximum=none", values) == [0, 1, 2, 3]
    assert places("knee,minimum=0.4,maximum=none,ties=strict", values) == [0]


def test_zeros_never_stay():
    # The knee of two levels is the first entry of the lower one.
    assert places(FREE, [0.0, 0.0, 3.0, 0.0, 0.0, 0.0, -3.0, 0.0, 0.0, 0.0]) == [2, 6]
    found = keep("knee,minimum=0.5,maximum=none", [0.0, 0.0, 3.0, 0.0])
    assert found.mask.tolist() == [False, False, True, False]
    nothing = keep("knee", torch.zeros(50))
    assert not nothing.mask.any() and "all entries are 0" in nothing.warning


@pytest.mark.parametrize(
    "values",
    [
        torch.full((100,), 0.3),
        torch.full((100,), -0.3) + torch.linspace(0, 0.03, 100),
        1 + 0.1 * torch.randn(5000, generator=torch.Generator().manual_seed(0)),
        torch.linspace(1, 0.01, 100),
        torch.linspace(1, 0, 100).sqrt(),
    ],
    ids=["constant", "nearly-constant", "noisy-constant", "linear", "bulging"],
)
def test_a_curve_without_a_knee_is_cut_at_the_maximum_and_says_so(values):
    found = keep("knee,maximum=0.08", values)
    assert int(found.mask.sum()) == 0.08 * len(values)
    assert found.warning == "no knee: the magnitudes are nearly alike or fall evenly; cut at 8.00%, maximum=0.08"
    free = keep(FREE, values)
    assert int(free.mask.sum()) == int((values != 0).sum()) and "cut at 100.00%" in free.warning


@pytest.mark.parametrize("seed", range(3))
def test_without_limits_the_knee_alone_decides_on_a_flat_curve_too(seed):
    values = (1 + 0.1 * np.random.default_rng(seed).standard_normal(5000)).astype(np.float32)
    *_, knee = naive_knee(values)
    found = keep(f"{FREE},flat=none", values)
    assert int(found.mask.sum()) == knee < 0.2 * len(values)
    assert not found.warning
    assert int(keep(FREE, values).mask.sum()) == len(values)


def test_strict_leaves_nothing_of_a_constant():
    found = keep("knee,ties=strict", torch.ones(40))
    assert not found.mask.any() and found.warning


@pytest.mark.parametrize("power", [1, 2, 4])
def test_normal_and_heavier_tails_have_a_knee(power):
    values = torch.randn(20000, generator=torch.Generator().manual_seed(1)) ** power
    found = keep("knee", values)
    assert not found.warning
    assert 0.01 < found.mask.float().mean().item() < 0.13


def test_clamps_warn_and_hold():
    values = torch.randn(1000, generator=torch.Generator().manual_seed(1)) ** 3
    knee = int(keep(FREE, values).mask.sum())
    assert 40 < knee < 100
    above = keep("knee,minimum=0.2,maximum=none", values)
    assert int(above.mask.sum()) == 200
    assert above.warning == f"the knee, at {knee / 1000:.2%} of the entries, is below minimum=0.2; cut there"
    below = keep("knee,maximum=0.02", values)
    assert int(below.mask.sum()) == 20
    assert below.warning == f"the knee, at {knee / 1000:.2%} of the entries, is above maximum=0.02; cut there"
    assert keep("knee,minimum=0.02,maximum=0.1", values).warning == ""


def test_one_outlier_does_not_make_it_the_only_entry():
    values = torch.cat([torch.rand(999, generator=torch.Generator().manual_seed(1)), torch.tensor([50.0])])
    assert int(keep(FREE, values).mask.sum()) == 2
    found = keep("knee", values)
    assert int(found.mask.sum()) == 10 and "below minimum=0.01" in found.warning


def test_clamps_that_contradict_each_other_are_refused():
    with refused("option-out-of-range", "minimum=0.3", "maximum=0.2"):
        registry.bound("trims", "knee,minimum=0.3")


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_few_entries_leave_at_least_one(count):
    for text in ("knee", FREE, "knee,maximum=0.001,minimum=none"):
        assert keep(text, torch.arange(1.0, count + 1)).mask[-1]


@pytest.mark.parametrize("tile", [1, 7, 1000])
def test_tiles_change_nothing(tile, monkeypatch):
    values = torch.from_numpy(heavy_tailed(4))
    whole = Curve.of(values).knee()
    monkeypatch.setattr(_curve, "_TILE", tile)
    assert Curve.of(values).knee() == whole


def test_a_sample_of_the_curve_has_both_ends_and_its_steep_part():
    curve = Curve.of(torch.from_numpy(heavy_tailed(2, 100_000)))
    numbers = curve.sample(500)
    x, y = curve.points(numbers)
    assert len(numbers) <= 1000 and (numbers[0], numbers[-1]) == (1, 100_000)
    assert (y[0], y[-1], x[-1]) == (1, 0, 1) and (np.diff(y) <= 0).all()
    assert (numbers < 1000).sum() > 100
    assert Curve.of(torch.ones(3)).sample().tolist() == [1, 2, 3]


def test_the_largest_are_found_without_sorting():
    generator = np.random.default_rng(0)
    for count in (1, 37, 200):
        magnitudes = generator.integers(0, 30, 200).astype(np.float32)
        expected = np.argsort(-magnitudes, kind="stable")[:count]
        mask = largest(magnitudes, count)
        assert sorted(expected) == np.flatnonzero(mask).tolist()
        assert (largest(magnitudes, count, float(magnitudes[expected[-1]])) == mask).all()
