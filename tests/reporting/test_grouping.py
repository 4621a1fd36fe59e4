"""From run folders to methods, orders and seeds."""

from __future__ import annotations

import math
from dataclasses import replace
from statistics import fmean, stdev

import pytest
from refusals import refused
from reported import ORDER, bits, bring, cell, stage_scores, write_run, write_runs

from clora_cli.presenting.markdown_tables import matrix_table
from clora_cli.reporting import assemble, bring_together
from clora_cli.reporting.collect import collect
from clora_cli.reporting.method_results import Spread
from clora_cli.reporting.standings import standings
from clora_cli.store.manifest import Manifest
from clora_cli.store.scores import ScoreRow

AP, FORGETTING = "average-performance", "forgetting-rate"


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return bring(write_runs(tmp_path_factory.mktemp("runs")))


def test_stages_of_a_run_folder_are_one_run_and_seeds_repetitions(results):
    assert len(results.runs) == 11
    assert [group.label for group in results.groups] == ["n-lora", "per-task", "seq-lora"]
    assert [order.label for order in results.orders] == ["order1", "order2"]
    first = results.groups[0].series[results.orders[0]]
    assert [run.seed for run in first.runs] == [1, 2, 3]
    assert all(run.folder.name == "n-lora" for run in first.runs)
    assert first.metrics[AP] == Spread(pytest.approx(70), pytest.approx(10))
    assert first.mean.matrix[-1].tolist() == pytest.approx([60, 80])
    assert first.deviation.tolist() == pytest.approx([0, 10])
    single = results.groups[0].series[results.orders[1]]
    assert math.isnan(single.metrics[AP].deviation)


def test_the_average_is_of_the_orders_means_and_its_deviation_of_all_runs(results):
    group = results.group("n-lora")
    average = group.average(results.orders, AP)
    assert average.mean == pytest.approx(fmean([70, 50]))
    assert average.deviation == pytest.approx(stdev([60, 70, 80, 50]))
    assert math.isnan(results.group("per-task").average(results.orders, AP).mean)  # order2 is missing
    with refused("unknown-name", "'n-lor'", "'n-lora'"):
        results.group("n-lor")


def test_packages_without_seeds_are_repetitions_and_one_seed_twice_is_not(tmp_path):
    files = [stage_scores(1, {"first": right}, name, "n-lora") for name, right in (("a", 5), ("b", 7))]
    (group,) = bring_together(assemble(files)).groups
    assert group.average(tuple(group.series), AP) == Spread(pytest.approx(60), pytest.approx(math.sqrt(200)))
    for name, right in (("one", 5), ("two", 7)):
        write_run(tmp_path / name, "n-lora", 1, [[right]])
    assert [group.label for group in bring(tmp_path).groups] == ["n-lora one", "n-lora two"]


def test_manifests_tell_seeds_and_options_apart():
    files = [stage_scores(1, {"first": right}, name, "n-lora") for name, right in (("a", 5), ("b", 7))]
    manifest = {"stage": 1, "method": {"options": {}}, "training": {"lr": 1.0}, "lora": {}, "seed": 4}
    same = {("n-lora", "afirst"): Manifest(manifest), ("n-lora", "bfirst"): Manifest({**manifest, "seed": 5})}
    (group,) = bring_together(assemble(files, same)).groups
    assert [run.seed for series in group.series.values() for run in series.runs] == [4, 5]
    other = {**same, ("n-lora", "bfirst"): Manifest({**manifest, "seed": 5, "training": {"lr": 2.0}})}
    assert [group.label for group in bring_together(assemble(files, other)).groups] == ["n-lora a", "n-lora b"]


def test_variants_of_a_method_are_rows_of_their_own(tmp_path):
    for name in ("n-lora", "n-lora@strong"):
        write_run(tmp_path, name, 1, [[5]])
    assert [group.label for group in bring(tmp_path).groups] == ["n-lora", "n-lora@strong"]


def test_ways_to_route_are_runs_of_their_own():
    file = stage_scores(1, {"first": 5}, "a", "pfd", combine="route")
    ways = [replace(file, settings={"route": {"similarity": one}}) for one in ("l2", "dot")]
    results = bring_together(assemble(ways))
    assert [group.label for group in results.groups] == ["pfd similarity=l2", "pfd similarity=dot"]


def test_a_run_that_has_not_come_to_its_end_is_left_out_and_named(tmp_path):
    write_run(tmp_path, "n-lora", 1, [[5], [4, 6]])
    write_run(tmp_path, "n-lora", 2, [[5]])
    results = bring(tmp_path)
    assert len(results.runs) == 1
    assert results.notes == ("n-lora, seed 2, has learned 1 of 2 tasks: left out until it is finished",)


def test_what_learned_all_at_once_is_under_every_order_of_its_tasks(tmp_path):
    row = ScoreRow(1, "merged", (), {task: cell(bits(right)) for task, right in zip(ORDER, (4, 9), strict=True)})
    merged = replace(stage_scores(1, {}, "merged", "magmax", order=("merged",)), rows=(row,))
    write_runs(tmp_path)
    results = bring_together(assemble([*collect([tmp_path]).scores, merged]))
    group = results.group("magmax")
    assert [series.metrics[AP].mean for series in group.series.values()] == [65, 65]
    assert all(math.isnan(series.metrics[FORGETTING].mean) for series in group.series.values())
    assert [order.label for order in results.orders] == ["order1", "order2"]
    (alone,) = bring_together(assemble([merged])).groups
    (series,) = alone.series.values()
    assert series.metrics[AP].mean == 65
    head, _, row, _ = matrix_table(series.mean).splitlines()
    assert [cell.strip() for cell in head.split("|")[2:-1]] == ["first", "second", "mean"]
    assert [cell.strip() for cell in row.split("|")[1:-1]] == ["1 merged", "40.0", "90.0", "65.0"]


def test_orders_are_told_without_the_words_that_all_begin_with(tmp_path):
    for name, order in (("small-order1", ORDER), ("small-order2", ORDER[::-1])):
        write_run(tmp_path / name, "n-lora", 1, [[5], [4, 6]], order=order)
    assert [order.label for order in bring(tmp_path).orders] == ["order1", "order2"]
    assert [order.label for order in bring(tmp_path / "small-order1").orders] == ["small-order1"]


def test_labels_of_orders_stay_distinct_when_one_name_repeats_the_other(tmp_path):
    for name, order in (("x", ORDER), ("x-x", ORDER[::-1])):
        write_run(tmp_path / name, "n-lora", 1, [[5], [4, 6]], order=order)
    assert [order.label for order in bring(tmp_path).orders] == ["x", "x-x"]


def test_the_base_model_is_a_row_where_it_was_scored(results):
    assert results.zero_shot == ()
    base = stage_scores(0, {"first": 1, "second": 3}, "", "", order=())
    runs = [stage_scores(2, {"first": 5, "second": 5}, name, "n-lora") for name in "ab"]
    found = standings(bring_together(assemble([base, *runs])))
    assert [(row.label, row.runs, row.cells[0].spread.mean) for row in found.rows] == [
        ("zero-shot", 1, 20),
        ("n-lora", 2, 50),
    ]
