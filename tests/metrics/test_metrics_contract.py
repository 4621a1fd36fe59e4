"""What every metric plug-in promises, over all files in clora_cli/metrics."""

from __future__ import annotations

import ast
import inspect
import math

import numpy as np
import pytest

from clora_cli.base import registry

NAMES = registry.names("metrics")
PERFECT = np.array([[80.0, 10.0, 20.0], [80.0, 60.0, 30.0], [80.0, 60.0, 90.0]])
SINGLE = np.array([70.0, 60.0, 95.0])
COUNTS = np.array([100.0, 50.0, 10.0])
ZERO_SHOT = np.array([5.0, 8.0, 12.0])


def compute(name, scores, **given):
    known = {"single": SINGLE[: len(scores)], "counts": COUNTS[: len(scores)], "zero_shot": ZERO_SHOT[: len(scores)]}
    return registry.load("metrics", name)(scores, **(known | given))


@pytest.mark.parametrize("name", NAMES)
def test_is_a_documented_function_named_after_its_file(name):
    metric = registry.load("metrics", name)
    assert metric.__name__ == name.replace("-", "_")
    assert list(inspect.signature(metric).parameters) == ["scores", "single", "counts", "zero_shot"]
    assert set(registry.options(metric)) == {"single", "counts", "zero_shot"}
    for part in ("Needs:", "References:", "Differs:", "Σ"):
        assert part in metric.__doc__
    assert registry.summary("metrics", name).endswith(("higher is better.", "lower is better."))
    assert "Σ" in registry.summary("metrics", name)


@pytest.mark.parametrize("name", NAMES)
def test_leaves_inputs_unchanged_and_repeats_itself(name):
    arrays = PERFECT.copy(), SINGLE.copy(), COUNTS.copy(), ZERO_SHOT.copy()
    values = {compute(name, arrays[0], single=arrays[1], counts=arrays[2], zero_shot=arrays[3]) for _ in range(2)}
    assert len(values) == 1
    assert isinstance(values.pop(), float)
    for array, original in zip(arrays, (PERFECT, SINGLE, COUNTS, ZERO_SHOT), strict=True):
        np.testing.assert_array_equal(array, original)


@pytest.mark.parametrize("name", [name for name in NAMES if "forgetting" in name or "backward" in name])
def test_perfect_retention_is_zero(name):
    assert compute(name, PERFECT) == 0


@pytest.mark.parametrize("name", NAMES)
def test_zero_and_one_task_give_no_warning(name):
    assert math.isnan(compute(name, np.empty((0, 0))))
    one = compute(name, np.array([[75.0]]))
    expected = {
        "average-performance": 75.0,
        "average-performance-micro": 75.0,
        "backward-transfer-over-t": 0.0,
        "forward-transfer-pfd": 5.0,
    }
    assert one == pytest.approx(expected.get(name, math.nan), nan_ok=True)


@pytest.mark.parametrize("name", NAMES)
def test_depends_on_exactly_the_entries_it_cannot_do_without(name):
    """An entry is needed if and only if changing it can change the value; a missing needed entry gives NaN."""
    scores = np.array([[90.0, 30.0, 20.0], [60.0, 80.0, 25.0], [50.0, 40.0, 70.0]])
    value = compute(name, scores)
    for place in np.ndindex(scores.shape):
        missing, changed = scores.copy(), scores.copy()
        missing[place], changed[place] = math.nan, 100.0
        if compute(name, changed) != value:
            assert math.isnan(compute(name, missing)), place
        elif name != "forgetting-rate-any":  # a maximum that 100 does not move may still need the entry
            assert compute(name, missing) == value, place


@pytest.mark.parametrize("name", NAMES)
def test_nothing_known_of_other_runs_is_nan_or_unused(name):
    value = compute(name, PERFECT)
    for argument in ("single", "counts", "zero_shot"):
        without = compute(name, PERFECT, **{argument: None})
        assert math.isnan(without) or without == value
        unknown = compute(name, PERFECT, **{argument: np.full(3, math.nan)})
        assert unknown == pytest.approx(without, nan_ok=True)


def test_the_package_is_a_docstring_only():
    tree = ast.parse(inspect.getsource(inspect.importlib.import_module("clora_cli.metrics")))
    assert len(tree.body) == 1
