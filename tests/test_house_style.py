"""What is asked of clora's own plug-ins beside what every plug-in must do: sources, ranges, and facts of one kind."""

from __future__ import annotations

import ast
import importlib
import inspect
import math

import numpy as np
import pytest
import torch
from support import check_numbers_refused, check_source_given

from clora_cli.algebra.lora import Factor
from clora_cli.base import registry
from clora_cli.merges import merge_sites
from clora_cli.testing.requirements import draw

CLASSES = [(kind, name) for kind in registry.KINDS if kind != "metrics" for name in registry.built_in(kind)]
MERGES, METRICS = registry.built_in("merges"), registry.built_in("metrics")
SHARES = {"alpha", "share", "isotropy", "density", "epsilon", "outliers", "minimum", "maximum"}
# Options of merges under which nothing is dropped and nothing is scaled.
PLAIN = {"density": 1.0, "epsilon": 0.0, "outliers": 0.0, "parallel": 1.0, "orthogonal": 1.0, "isotropy": 0.0}


@pytest.mark.parametrize(("kind", "name"), CLASSES)
def test_the_docstring_gives_its_source(kind, name):
    check_source_given(kind, name)
    assert kind != "merges" or "``" in registry.load(kind, name).__doc__


@pytest.mark.parametrize(("kind", "name"), CLASSES)
def test_numbers_out_of_range_are_refused(kind, name):
    exact = kind in {"merges", "trims"}
    message = r"^option {option}=.* of {name}: give a" if exact else "option {option}="

    def texts(option):
        share = ("-1", "1.5") if option in SHARES else ()
        return {"merges": share, "trims": ("-1", "0", *share)}.get(kind, ("-1",))

    check_numbers_refused(kind, name, message, texts)


@pytest.mark.parametrize("name", MERGES)
def test_a_scale_of_a_merge_may_be_any_finite_number(name):
    plugin = registry.load("merges", name)
    numbers = {option for option, parameter in registry.options(plugin).items() if parameter.annotation is float}
    for option in numbers - SHARES:
        for text in ("-1", "0", "1e3"):
            merge = plugin(**registry.bind(plugin, name, {option: text}))
            assert getattr(merge, option) == float(text)


def merged(merge, adapters, seed=0):
    states = [{"s": {name: torch.ones(6, 5) for name in set(merge.needs) - {"base"}}} for _ in adapters]
    weights = torch.ones(len(adapters))
    ((_, delta),) = merge_sites(
        merge, adapters, weights, seed=seed, base=lambda site: draw(6, 5, seed=2), states=states
    )
    return (delta.b * delta.scaling) @ delta.a if isinstance(delta, Factor) else delta


@pytest.mark.parametrize("name", MERGES)
def test_one_adapter_of_which_nothing_is_dropped_stays_itself(name):
    # neuro among them only with both parts' factors set to 1: by default it scales the orthogonal part by 3.
    plugin = registry.load("merges", name)
    merge = plugin(**{option: value for option, value in PLAIN.items() if option in registry.options(plugin)})
    factor = Factor(draw(3, 5), draw(6, 3, seed=1), 3.5)
    assert torch.allclose(merged(merge, [{"s": factor}]), (factor.b * factor.scaling) @ factor.a, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", MERGES)
def test_a_merge_depends_on_the_seed_where_its_source_draws_numbers(name):
    merge = registry.load("merges", name)()
    adapters = [{"s": draw(6, 5, seed=seed)} for seed in range(3)]
    differs = not torch.equal(merged(merge, adapters, 1), merged(merge, adapters, 2))
    assert differs == ("generator(" in inspect.getsource(type(merge)))


@pytest.mark.parametrize("name", METRICS)
def test_a_metric_is_a_documented_function_named_after_its_file(name):
    metric = registry.load("metrics", name)
    assert metric.__name__ == name.replace("-", "_")
    assert list(inspect.signature(metric).parameters) == ["scores", "single", "counts", "zero_shot"]
    assert set(registry.options(metric)) == {"single", "counts", "zero_shot"}
    for part in ("Needs:", "References:", "Differs:", "Σ"):
        assert part in metric.__doc__
    assert "Σ" in registry.summary("metrics", name)


def compute(name, scores):
    size = len(scores)
    given = {"single": [70.0, 60.0, 95.0], "counts": [100.0, 50.0, 10.0], "zero_shot": [5.0, 8.0, 12.0]}
    return registry.load("metrics", name)(scores, **{key: np.array(value[:size]) for key, value in given.items()})


@pytest.mark.parametrize("name", [name for name in METRICS if "forgetting" in name or "backward" in name])
def test_perfect_retention_is_zero(name):
    assert compute(name, np.array([[80.0, 10.0, 20.0], [80.0, 60.0, 30.0], [80.0, 60.0, 90.0]])) == 0


@pytest.mark.parametrize("name", METRICS)
def test_one_task_gives_what_its_equation_says_and_else_nan(name):
    expected = {
        "average-anytime-performance": 75.0,
        "average-performance": 75.0,
        "average-performance-micro": 75.0,
        "backward-transfer-over-t": 0.0,
        "forward-transfer-pfd": 5.0,
    }
    assert compute(name, np.array([[75.0]])) == pytest.approx(expected.get(name, math.nan), nan_ok=True)


def test_the_package_of_metrics_is_a_docstring_only():
    tree = ast.parse(inspect.getsource(importlib.import_module("clora_cli.metrics")))
    assert len(tree.body) == 1
