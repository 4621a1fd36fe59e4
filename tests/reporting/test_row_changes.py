"""Rows that were right before and are wrong after, from stage to stage."""

from __future__ import annotations

import math

import pytest
from reported import cell

from clora_cli.reporting import assemble
from clora_cli.reporting.general_ability import general_abilities
from clora_cli.reporting.row_changes import changes_since_learned, changes_to, row_change
from clora_cli.store.scores import BaseRef, Retention, ScoreRow, Scores

ORDER = ("a", "b", "c")


def run_of(*stages, retention=None):
    rows = tuple(
        ScoreRow(number, ORDER[number - 1], (), {task: cell(rows) for task, rows in stage.items()}, retention or {})
        for number, stage in enumerate(stages, start=1)
    )
    return assemble([Scores(BaseRef("nano", "f0"), "adapters", "n-lora", "sum", "generate", ORDER, rows)])[0]


def test_rows_are_counted_each_way_and_the_interval_holds_the_change():
    change = row_change([1, 1, 1, 0, 0], [1, 0, 0, 1, 0])
    assert (change.lost, change.gained, change.rows) == (2, 1, 5)
    assert change.estimate.difference == pytest.approx(-20)
    assert change.estimate.low < -20 < change.estimate.high
    graded = row_change([0.5, 0.25], [0.25, 0.5])
    assert (graded.lost, graded.gained, graded.estimate.difference) == (1, 1, 0)
    assert row_change([], []) is None and row_change([1.0], [1.0, 0.0]) is None


def test_each_stage_is_told_by_all_earlier_rows_and_each_task_since_it_was_learned():
    run = run_of(
        {"a": [1, 1, 0, 0]},
        {"a": [1, 0, 0, 0], "b": [1, 1]},
        {"a": [1, 1, 1, 0], "b": [0, 0], "c": [1]},
    )
    first, second = changes_to([run])
    assert (first.stage, first.after, first.task) == (2, "b", "")
    assert (first.change.lost, first.change.gained, first.change.rows) == (1, 0, 4)
    assert (second.change.lost, second.change.gained, second.change.rows) == (2, 2, 6)
    of_a, of_b = changes_since_learned([run])
    assert (of_a.task, of_a.after, of_a.change.lost, of_a.change.gained) == ("a", "c", 0, 1)
    assert of_b.change.estimate.difference == pytest.approx(-100)


def test_stages_that_were_not_scored_are_left_out():
    run = run_of({"a": [1, 0]}, {"b": [1]}, {"a": [0, 0], "b": [1], "c": [1]})
    assert list(changes_to([run])) == []
    assert [(change.task, change.change.lost) for change in changes_since_learned([run])] == [("a", 1), ("b", 0)]


def test_general_ability_is_told_by_the_same_rule():
    kept = Retention(0.1, 4, cell([1, 1, 0]), cell([1, 0, 0]))
    (row, *_) = general_abilities([run_of({"a": [1.0]}, retention={"general": kept})])
    change = row_change([1, 1, 0], [1, 0, 0])
    assert row.change == change.estimate and (kept.lost, kept.gained) == (change.lost, change.gained)
    assert not math.isnan(row.change.low)
