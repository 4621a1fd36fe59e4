"""What every metric must do (layer L3)."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from clora_cli.base import registry
from clora_cli.testing.requirements import PlugInTests, require

__all__ = ["MetricTests"]

_Floats = NDArray[np.float64]
_SCORES = np.array([[80.0, 10.0, 20.0], [80.0, 60.0, 30.0], [80.0, 60.0, 90.0]])
_GIVEN = {
    "single": np.array([70.0, 60.0, 95.0]),
    "counts": np.array([100.0, 50.0, 10.0]),
    "zero_shot": np.array([5.0, 8.0, 12.0]),
}
_MOVED = (100.0, 0.0, 1e4, -1e4)  # no score is beyond 100 or 0, but a maximum is moved by what is


class MetricTests(PlugInTests):
    """Tests for each metric."""

    kind: ClassVar[str] = "metrics"

    def test_its_summary_gives_the_equation_and_says_what_is_better(self, name: str) -> None:
        text = registry.summary("metrics", name)
        require(text.endswith(("higher is better.", "lower is better.")), "the summary is to end so: higher is better.")
        require(any(sign in text for sign in "=Σ/"), "the summary is to give the equation")

    def test_it_repeats_itself_and_leaves_its_inputs(self, name: str) -> None:
        scores, given = _SCORES.copy(), {key: value.copy() for key, value in _GIVEN.items()}
        values = {registry.load("metrics", name)(scores, **given) for _ in range(2)}
        require(len(values) == 1 and isinstance(values.pop(), float), "it is to return the same float at every call")
        unchanged = all(np.array_equal(given[key], value) for key, value in _GIVEN.items())
        require(unchanged and np.array_equal(scores, _SCORES), "its inputs are to stay as they were")

    def test_no_task_is_nan_and_one_gives_no_warning(self, name: str) -> None:
        with np.errstate(all="raise"):
            require(math.isnan(_compute(name, np.empty((0, 0)))), "without a task it is to be NaN")
            value = _compute(name, np.array([[75.0]]))
        require(math.isnan(value) or math.isfinite(value), "of one task it is to be a number, or NaN")

    def test_it_is_nan_if_and_only_if_an_entry_is_missing_that_it_depends_on(self, name: str) -> None:
        scores = np.array([[90.0, 30.0, 20.0], [60.0, 80.0, 25.0], [50.0, 40.0, 70.0]])
        value = _compute(name, scores)
        for place in np.ndindex(scores.shape):
            depends = any(_compute(name, _with(scores, place, moved)) != value for moved in _MOVED)
            missing = _compute(name, _with(scores, place, math.nan))
            what = f"with R[{place[0] + 1}][{place[1] + 1}] missing it is {missing}"
            if depends:
                require(math.isnan(missing), f"{what}, although it depends on that score: give NaN")
            else:
                require(missing == value, f"{what}, although it does not depend on that score")

    def test_what_other_runs_say_is_needed_or_not_used(self, name: str) -> None:
        value = _compute(name, _SCORES)
        for argument in _GIVEN:
            without = _compute(name, _SCORES, **{argument: None})
            unknown = _compute(name, _SCORES, **{argument: np.full(3, math.nan)})
            require(
                math.isnan(without) or without == value, f"without {argument} it is {without}: give NaN, or the same"
            )
            same = math.isnan(without) and math.isnan(unknown)
            require(same or unknown == without, f"{argument} of NaN is to be as good as none")


def _compute(name: str, scores: _Floats, **given: Any) -> float:
    defaults = {key: value[: len(scores)] for key, value in _GIVEN.items()}
    return float(registry.load("metrics", name)(scores, **(defaults | given)))


def _with(scores: _Floats, place: tuple[int, ...], value: float) -> _Floats:
    changed = scores.copy()
    changed[place] = value
    return changed
