"""Limits for CI: what a mean must reach, what no task may have lost, and what cannot be judged."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from refusals import refused
from reported import ORDER, bits, cell, stage_scores

from clora_cli.reporting import assemble, summarise
from clora_cli.reporting.limits import broken_limits, check_baselines, losses
from clora_cli.store.scores import ScoreRow

RIGHTS = ([9, 3, 2], [7, 8, 1], [8, 6, 5])  # right rows of ten on each task, after each stage
TASKS = ("a", "b", "c")


def matrix():
    """Return the scores of three stages on three tasks, in one file."""
    files = [
        stage_scores(stage, dict(zip(TASKS, rights, strict=True)), "p", "m", TASKS)
        for stage, rights in enumerate(RIGHTS, 1)
    ]
    return replace(files[-1], rows=tuple(file.rows[0] for file in files))


def test_losses_are_the_terms_of_the_forgetting_rate():
    found = {loss.task: loss for loss in losses(matrix())}
    assert {task: loss.points for task, loss in found.items()} == {"a": 10, "b": 20}
    assert (found["a"].where, found["a"].best, found["a"].now) == ("stage 1", 90, 80)
    (run,) = assemble([matrix()])
    assert summarise(run)["forgetting-rate"] == pytest.approx(sum(loss.points for loss in found.values()) / 2)


def test_the_worst_task_is_named_with_what_it_lost():
    assert broken_limits(matrix(), max_forgetting=20) == []
    (told,) = broken_limits(matrix(), max_forgetting=19.5)
    assert told == "b lost 20.00 points, from 80.00 (stage 2) to 60.00: more than --max-forgetting 19.5"
    both = broken_limits(matrix(), fail_under=64, max_forgetting=0)
    assert both[0] == "the mean score 63.33 is below --fail-under 64"
    assert len(both) == 2
    assert broken_limits(matrix(), fail_under=63) == []


def test_a_baseline_is_an_earlier_row_and_the_best_of_several_counts():
    now = stage_scores(2, {"first": 5, "second": 9}, "new", "m")
    before = [
        replace(stage_scores(1, {"first": right}, "old", "m"), source=Path(f"{right}.json")) for right in (6, 8, 7)
    ]
    (loss,) = losses(now, before)
    assert (loss.task, loss.points, loss.where) == ("first", pytest.approx(30), "8.json")
    (gained,) = losses(now, [stage_scores(1, {"first": 4}, "old", "m")])
    assert gained.points == pytest.approx(-10)
    assert broken_limits(now, [stage_scores(1, {"first": 4}, "old", "m")], max_forgetting=0) == []


def test_neither_the_base_model_nor_a_task_not_learned_yet_can_be_forgotten():
    now = stage_scores(2, {"first": 1, "second": 1}, "new", "m")
    ahead = stage_scores(1, {"first": 2, "second": 9}, "old", "m")
    ahead = replace(ahead, order=ORDER)
    base = stage_scores(0, {"first": 9}, "", "", order=())
    assert [(loss.task, loss.points) for loss in losses(now, [ahead, base])] == [("first", pytest.approx(10))]
    with refused("baseline-without-scores", "--baseline"):
        check_baselines([base], ["first"])


def test_a_merged_adapter_has_learned_all_its_tasks():
    row = ScoreRow(1, "merged", (), {"first": cell(bits(9))})
    merged = replace(stage_scores(1, {}, "m", "magmax", order=("merged",)), rows=(row,))
    assert [loss.points for loss in losses(stage_scores(1, {"first": 7}, "p", "m"), [merged])] == [pytest.approx(20)]


def test_what_cannot_be_judged_is_refused():
    baseline = replace(stage_scores(2, {"first": 5, "second": 5}, "old", "m"), source=Path("old.json"))
    with refused("baseline-task-not-scored", "old.json", "--data second"):
        check_baselines([baseline], ["first", "third"])
    check_baselines([baseline], ["second", "first", "third"])
    now = stage_scores(2, {"first": 5, "second": 5}, "new", "m")
    fewer = replace(now, rows=(replace(now.rows[0], scores={"first": cell(bits(5, 8)), "second": cell(bits(5))}),))
    with refused("scored-differently", "first", "10 rows", "old.json", 8):
        losses(fewer, [baseline])
