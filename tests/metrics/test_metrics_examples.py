"""Each metric on one matrix of small whole numbers, computed by hand from its equation."""

from __future__ import annotations

import math

import numpy as np
import pytest

from clora_cli.base import registry

# Row = after learning that task, column = scored task.
SCORES = np.array(
    [
        [80.0, 20.0, 10.0, 40.0],
        [84.0, 60.0, 14.0, 44.0],
        [70.0, 52.0, 90.0, 96.0],
        [74.0, 50.0, 93.0, 92.0],
    ]
)
SINGLE = np.array([79.0, 62.0, 84.0, 92.0])
COUNTS = np.array([10.0, 10.0, 20.0, 60.0])
ZERO_SHOT = np.array([5.0, 14.0, 10.0, 36.0])

BY_HAND = {
    "average-performance": (74 + 50 + 93 + 92) / 4,  # 77.25
    "average-anytime-performance": (80 + (84 + 60) / 2 + (70 + 52 + 90) / 3 + (74 + 50 + 93 + 92) / 4) / 4,
    "average-performance-micro": (740 + 500 + 1860 + 5520) / 100,  # 86.2
    "forgetting-rate": ((84 - 74) + (60 - 50) + (90 - 93)) / 3,  # 17 / 3: the last row is not in the maximum
    "forgetting-rate-any": ((84 - 74) + (60 - 50) + (90 - 93)) / 3,
    "backward-transfer": ((74 - 80) + (50 - 60) + (93 - 90)) / 3,  # -13 / 3
    "backward-transfer-over-t": ((74 - 80) + (50 - 60) + (93 - 90)) / 4,
    "forward-transfer": ((60 - 62) + (90 - 84) + (92 - 92)) / 3,  # 4 / 3
    "forward-transfer-pfd": ((80 - 79) + (60 - 62) + (90 - 84) + (92 - 92)) / 4,  # 5 / 4
    "forward-transfer-gem": ((20 - 14) + (14 - 10) + (96 - 36)) / 3,  # 70 / 3
}


def compute(name, scores=SCORES):
    return registry.load("metrics", name)(scores, single=SINGLE, counts=COUNTS, zero_shot=ZERO_SHOT)


def test_every_metric_has_an_example():
    assert set(BY_HAND) == set(registry.names("metrics"))


@pytest.mark.parametrize(("name", "value"), BY_HAND.items())
def test_example(name, value):
    assert compute(name) == pytest.approx(value, abs=1e-12)


def test_the_two_forgetting_rates_differ_only_where_an_unlearned_task_scored_better():
    earlier = SCORES.copy()
    earlier[0, 1] = 66  # task 2 was better zero-shot than ever since
    assert compute("forgetting-rate", earlier) == pytest.approx(17 / 3)
    assert compute("forgetting-rate-any", earlier) == pytest.approx(((84 - 74) + (66 - 50) + (90 - 93)) / 3)


def test_forgetting_is_at_least_minus_backward_transfer():
    for seed in range(20):
        scores = np.random.default_rng(seed).uniform(0, 100, (5, 5))
        assert compute_square("forgetting-rate", scores) >= -compute_square("backward-transfer", scores) - 1e-9


def compute_square(name, scores):
    return registry.load("metrics", name)(scores)


def test_backward_transfer_does_not_need_the_stages_between():
    sparse = SCORES.copy()
    sparse[1, 0] = sparse[2, 0] = sparse[2, 1] = math.nan
    assert compute("backward-transfer", sparse) == pytest.approx(-13 / 3)
    assert math.isnan(compute("forgetting-rate", sparse))


def test_micro_average_without_test_rows_is_nan():
    micro = registry.load("metrics", "average-performance-micro")
    assert math.isnan(micro(SCORES, counts=np.zeros(4)))
