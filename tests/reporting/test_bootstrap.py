"""The paired bootstrap, against hand examples, all resamples of a small one and a naive reference."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from refusals import refused
from reported import bits, cell, stage_scores, write_runs

from clora_cli.reporting import assemble, bring_together
from clora_cli.reporting.bootstrap import compare, paired_bootstrap
from clora_cli.reporting.collect import collect


def naive(differences, resamples, seed):
    """Resample row by row, as the textbook says."""
    generator = np.random.default_rng(seed)
    draws = [rows[generator.integers(len(rows), size=(resamples, len(rows)))].mean(1) for rows in differences]
    return np.sum(draws, axis=0)


def test_no_difference_is_no_difference():
    found = paired_bootstrap([np.zeros(50), np.zeros(7)])
    assert (found.difference, found.low, found.high, found.p_value) == (0, 0, 0, 1)
    balanced = paired_bootstrap([np.array([1.0, -1.0] * 20)])
    assert (balanced.difference, balanced.p_value) == (0, 1)
    assert balanced.low == -balanced.high < 0


def test_a_clear_difference_is_significant_and_has_its_sign():
    rows = np.array([1.0] * 60 + [0.0] * 40)
    found = paired_bootstrap([rows])
    assert found.difference == pytest.approx(0.6)
    assert found.p_value == pytest.approx(1 / 10_001)
    other = paired_bootstrap([-rows])
    assert (other.difference, other.low, other.high) == pytest.approx(
        (-found.difference, -found.high, -found.low), abs=0.01
    )
    # A mean of 100 rows of 0.6 and 0.4: a standard error of 0.049.
    assert (found.low, found.high) == pytest.approx((0.6 - 1.96 * 0.049, 0.6 + 1.96 * 0.049), abs=0.011)


def test_all_27_resamples_of_three_rows():
    rows = np.array([0.9, 0.2, -0.1])
    means = np.array([np.mean(draw) for draw in product(rows, repeat=3)])
    exact = np.mean(np.abs(means - rows.mean()) >= abs(rows.mean()) - 1e-12)
    found = paired_bootstrap([rows], resamples=200_000)
    assert found.p_value == pytest.approx(exact, abs=0.005)
    assert found.low == pytest.approx(np.percentile(np.repeat(means, 1000), 2.5))
    assert found.high == pytest.approx(np.percentile(np.repeat(means, 1000), 97.5))


def test_it_agrees_with_resampling_row_by_row_within_each_task():
    generator = np.random.default_rng(5)
    differences = [generator.normal(0.05, 0.3, 60), generator.choice([-1.0, 0.0, 1.0], 25, p=[0.2, 0.5, 0.3])]
    draws = naive(differences, 20_000, 1)
    found = paired_bootstrap(differences, resamples=20_000)
    observed = sum(rows.mean() for rows in differences)
    assert found.difference == pytest.approx(observed)
    assert (found.low, found.high) == pytest.approx(tuple(np.percentile(draws, [2.5, 97.5])), abs=0.012)
    assert found.p_value == pytest.approx(np.mean(np.abs(draws - observed) >= abs(observed)), abs=0.012)


def test_many_distinct_values_are_drawn_in_parts(monkeypatch):
    rows = np.random.default_rng(0).random(500)
    whole = paired_bootstrap([rows], resamples=300)
    monkeypatch.setattr("clora_cli.reporting.bootstrap._HELD", 7 * 500)
    assert paired_bootstrap([rows], resamples=300) == whole


def test_rows_are_averaged_over_seeds_and_orders_before_they_are_drawn(tmp_path):
    material = collect([write_runs(tmp_path)])
    results = bring_together(assemble(material.scores))
    first, second = results.group("n-lora"), results.group("seq-lora")
    found = compare(first, second)
    assert (found.tasks, found.rows, found.runs, found.orders) == (2, 20, (4, 4), ("order1", "order2"))
    averages = [group.average(results.orders, "average-performance").mean for group in (first, second)]
    assert found.estimate.difference == pytest.approx(averages[0] - averages[1])
    assert compare(second, first).estimate.difference == pytest.approx(-found.estimate.difference)
    same = compare(first, first)
    assert (same.estimate.difference, same.estimate.p_value) == (0, 1)
    assert compare(first, results.group("per-task")).orders == ("order1",)


def grouped(*files):
    return bring_together(assemble(files)).groups


def test_what_cannot_be_paired_is_refused_in_one_line():
    one, other = (stage_scores(1, {"first": 5}, name, name) for name in ("a", "b"))
    silent = replace(other, rows=(replace(other.rows[0], scores={"first": replace(cell(bits(5)), per_row=())}),))
    fewer = replace(other, rows=(replace(other.rows[0], scores={"first": cell(bits(5, 8))}),))
    elsewhere = stage_scores(1, {"second": 5}, "b", "b", order=("second",))
    for file, code, names in (
        (silent, "row-scores-missing", ["b on first"]),
        (fewer, "scored-rows-differ", ["10 rows of first", "b on 8"]),
        (elsewhere, "no-common-task-order", ["a and b"]),
    ):
        with refused(code, *names):
            compare(*grouped(one, file))
