"""From scores files to runs and metrics."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from refusals import refused
from scored import FULL, ORDER, alone, base, cell, full, row, scores

from clora_cli.base import registry
from clora_cli.presenting.markdown_tables import matrix_table
from clora_cli.reporting import assemble, summarise
from clora_cli.reporting.runs import _independent, summarise_stages
from clora_cli.store.scores import BaseRef, ScoreRow


def test_one_file_is_one_run():
    (run,) = assemble([full()])
    np.testing.assert_array_equal(run.matrix, FULL)
    assert run.order == ORDER == run.columns
    assert run.label == "n-lora (sum)"
    assert run.counts.tolist() == [100, 100, 100]
    assert set(run.task_metrics) == {"exact-match"}
    assert np.isnan(run.zero_shot).all()
    assert run.trajectory.tolist() == pytest.approx([80, 65, 65])


def test_metrics_after_each_stage_are_those_of_the_package_at_that_stage():
    (run,) = assemble([full(), alone(), base()])[:1]
    stages = summarise_stages(run)
    for stage, metrics in enumerate(stages, start=1):
        shorter = [row(number, values) for number, values in enumerate(FULL[:stage], start=1)]
        (early, *_) = assemble([scores(*shorter, order=ORDER[:stage]), alone(), base()])
        assert metrics == pytest.approx(summarise(early), nan_ok=True)
    assert stages[-1] == pytest.approx(summarise(run), nan_ok=True)
    assert [stage["average-performance"] for stage in stages] == pytest.approx([80, 65, 65])


def test_tasks_learned_all_at_once_have_no_stages():
    (merged,) = assemble([scores(row(1, [50.0, 40.0, 30.0], order=("all",)), order=("all",))])
    merged = replace(merged, task_metrics=("",) * len(merged.task_metrics))
    assert merged.at_once and summarise_stages(merged) == []


def test_files_of_a_growing_package_merge_in_any_order():
    files = [scores(row(stage, values), order=ORDER[:stage]) for stage, values in enumerate(FULL, start=1)]
    for sequence in (files, files[::-1], [*files, *files]):
        (run,) = assemble(sequence)
        np.testing.assert_array_equal(run.matrix, FULL)


def test_cells_of_one_stage_merge_and_the_rest_is_nan():
    last = scores(row(3, [50.0]))
    other = scores(ScoreRow(3, "wic", (), {"wic": cell(90.0)}))
    (run,) = assemble([last, other])
    np.testing.assert_array_equal(run.matrix[2], [50, math.nan, 90])
    assert np.isnan(run.matrix[:2]).all()
    assert np.isnan(run.trajectory).all()
    assert run.task_metrics == ("exact-match", "", "exact-match")
    assert all(math.isnan(value) for value in summarise(run).values())


def test_contradicting_duplicates_name_both_files():
    with refused("scores-contradict", "cb", "80 in one.json", "81 in two.json"):
        assemble([scores(row(1, [80.0]), source="one.json"), scores(row(1, [81.0]), source="two.json")])


def test_different_adapters_in_one_package_are_refused():
    with refused("package-holds-two-runs", "cb"):
        assemble([scores(row(1, [80.0])), scores(row(2, [70.0, 60.0], sha="z"))])


@pytest.mark.parametrize("kind", [{"metric": "rouge-l"}, {"total": 10}, {"normaliser": "unicode/1"}])
def test_one_task_has_one_yardstick(kind):
    with refused("scored-differently", "cb"):
        assemble([scores(row(1, [80.0])), scores(row(2, [70.0, 60.0], **kind))])
    with refused("scored-differently", "cb"):  # nor is a foreign yardstick lent
        assemble([full(), scores(row(0, [10.0], **kind), order=(), package="", method="", combine="none")])


@pytest.mark.parametrize(
    "difference",
    [
        {"base": BaseRef("other", "f1")},
        {"method": "o-lora"},
        {"combine": "last"},
        {"score": "labels"},
        {"package": "second"},
    ],
)
def test_what_makes_another_run_also_shows_in_its_label(difference):
    runs = assemble([full(), full(**difference)])
    assert len({run.label for run in runs}) == len(runs) == 2


def test_other_orders_are_other_runs_that_may_share_their_start():
    start = scores(row(1, [80.0]), order=("cb",))
    second = ("cb", "wic")
    files = [start, full(), scores(row(2, [75.0, 88.0], order=second), order=second)]
    first, other = assemble(files)
    np.testing.assert_array_equal(first.matrix, FULL)
    np.testing.assert_array_equal(other.matrix, [[80, math.nan], [75, 88]])
    assert (first.label, other.label) == ("n-lora (sum) #1", "n-lora (sum) #2")


def test_zero_shot_is_lent_to_runs_of_the_same_base_and_scoring():
    run, other = assemble([full(), base(), full(score="labels", package="p")])
    assert run.zero_shot.tolist() == [10, 20, 30]
    assert np.isnan(other.zero_shot).all()
    assert summarise(run)["forward-transfer-gem"] == pytest.approx(((30 - 20) + (25 - 30)) / 2)


def test_the_base_model_alone_is_a_run_only_by_itself():
    (run,) = assemble([base()])
    assert (run.label, run.order, run.unseen) == ("nano", (), ORDER)
    assert run.matrix.shape == (0, 3)
    assert all(math.isnan(value) for value in summarise(run).values())
    _, _, row, _ = matrix_table(run).splitlines()
    assert [cell.strip() for cell in row.split("|")[1:-1]] == ["0 (base model)", "10.0", "20.0", "30.0", "20.0"]


def test_no_files_are_no_runs():
    assert assemble([]) == []


def test_single_comes_from_a_per_task_run_or_is_given():
    run, _ = assemble([full(), alone()])
    assert run.single == {"cb": 78, "rte": 62, "wic": 85}
    assert summarise(run)["forward-transfer"] == pytest.approx(((60 - 62) + (90 - 85)) / 2)
    assert summarise(run, {"rte": 50.0, "wic": 80.0})["forward-transfer"] == pytest.approx(10)
    (without,) = assemble([full()])
    assert math.isnan(summarise(without)["forward-transfer"])


def test_single_is_not_taken_where_adapters_were_summed():
    run, _ = assemble([full(), replace(alone(), combine="sum")])
    assert run.single == {}


def test_single_is_of_the_same_seed_or_else_the_mean_over_per_task_runs():
    others = [
        replace(alone((70.0, 62.0, 85.0)), package="out/per-task/seed-2/adapters"),
        replace(alone((80.0, 62.0, 85.0)), package="out/per-task/seed-3/adapters"),
    ]
    unknown, second, *_ = assemble([full(), full(package="out/n-lora/seed-2/adapters"), *others])
    assert unknown.single == {"cb": 75, "rte": 62, "wic": 85}
    assert second.single == {"cb": 70, "rte": 62, "wic": 85}


def test_unseen_tasks_are_columns_that_no_metric_counts():
    unseen = scores(*(row(s, [*v, 12.0], order=(*ORDER, "copa")) for s, v in enumerate(FULL, start=1)))
    (plain,), (run,) = assemble([full()]), assemble([unseen])
    assert run.unseen == ("copa",)
    assert run.matrix.shape == (3, 4)
    assert summarise(run) == pytest.approx(summarise(plain), nan_ok=True)
    assert "copa (unseen)" in matrix_table(run)


def test_summarise_covers_every_plug_in():
    (run,) = assemble([full()])
    summary = summarise(run)
    assert set(summary) == set(registry.names("metrics"))
    assert summary["average-performance"] == pytest.approx(65)
    assert summary["forgetting-rate"] == pytest.approx(((80 - 50) + (60 - 55)) / 2)


def test_only_methods_of_independent_adapters_tell_what_training_alone_scores():
    assert [name for name in registry.names("methods") if _independent(name)] == ["epi", "per-task", "per-task-ft"]
    assert not _independent("per-task+seq-lora")
    assert not _independent("somebody-elses")
