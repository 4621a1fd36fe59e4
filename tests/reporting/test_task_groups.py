"""Scores by group of tasks: categories of tasks never learned, and parts that unions are made of."""

from __future__ import annotations

import numpy as np
import pytest
from reported import bits, cell, write_runs

from clora_cli.presenting.export import report_json
from clora_cli.presenting.html import report_html
from clora_cli.presenting.report_text import report_text
from clora_cli.reporting.assembly import make_report
from clora_cli.reporting.collect import collect
from clora_cli.store.scores import AdapterRef, BaseRef, ScoreRow, Scores, write_scores


def write(root, label, learned, rights, seed=1):
    """Write the scores of a run after its last task: right rows of ten by task, learned or not."""
    folder = root / label / f"seed-{seed}"
    adapters = tuple(AdapterRef(task, f"{label}-{task}") for task in learned)
    row = ScoreRow(len(learned), learned[-1], adapters, {task: cell(bits(right)) for task, right in rights.items()})
    package = " ".join(str(folder / "adapters" / task) for task in learned)
    scores = Scores(BaseRef("nano", "f0"), package, "pfd", "route", "generate", tuple(learned), (row,))
    write_scores(scores, folder / "scores" / f"{len(learned)}-{learned[-1]}.json")


@pytest.fixture
def parts(tmp_path):
    """Two parts learned apart, and their union, in which one task loses a row of ten."""
    write(tmp_path, "news", ["a", "b"], {"a": 8, "b": 6, "c": 1, "d": 1})
    write(tmp_path, "films", ["c", "d"], {"a": 2, "b": 0, "c": 9, "d": 9})
    write(tmp_path, "both", ["a", "c", "b", "d"], {"a": 7, "b": 6, "c": 9, "d": 9})
    return make_report(collect([tmp_path]))


def test_a_union_stands_beside_the_parts_that_were_learned_alone(parts):
    (table,) = parts.task_groups
    assert {name: set(tasks) for name, tasks in table.groups.items()} == {"films": {"c", "d"}, "news": {"a", "b"}}
    rows = {row.label: row for row in table.rows}
    assert [spread.mean for spread in rows["both"].scores] == [90, 65] and rows["both"].average.mean == 77.5
    assert rows["both"].change == (0, -5)
    assert [spread.mean for spread in rows["news"].scores] == [10, 70]
    assert np.isnan(rows["news"].change).all()


def test_it_is_in_every_form_of_the_report(parts):
    assert "| both   | 90.00 (+0.0) | 65.00 (-5.0) |   77.50 |" in report_text(parts, short=True)
    assert "65.00 (-5.0)" in report_html(parts)
    (data,) = report_json(parts)["task_groups"]
    assert data["rows"][0]["change"] == [0, -5] and data["groups"]["news"] == ["a", "b"]


def test_tasks_never_learned_are_told_by_category_with_their_spread_over_seeds(tmp_path):
    never = {"task360": 2, "task574": 4, "task339": 6, "mine": 1}
    for seed in (1, 2):
        write(tmp_path, "pfd", ["cb"], {"cb": 9, **never, "task339": 6 + seed}, seed)
    (table,) = make_report(collect([tmp_path])).task_groups
    assert table.groups == {"Dialog": ("task360", "task574"), "QA": ("task339",), "others": ("mine",)}
    (row,) = table.rows
    scores = dict(zip(table.groups, row.scores, strict=True))
    assert {name: spread.mean for name, spread in scores.items()} == {"Dialog": 30, "QA": 75, "others": 10}
    assert scores["QA"].deviation == pytest.approx(7.07, abs=0.01)


def test_seeds_that_were_not_scored_on_tasks_never_learned_do_not_hide_those_that_were(tmp_path):
    write(tmp_path, "pfd", ["cb"], {"cb": 9, "task360": 4}, seed=1)
    write(tmp_path, "pfd", ["cb"], {"cb": 8}, seed=2)
    report = make_report(collect([tmp_path]))
    (row,) = report.task_groups[0].rows
    assert (row.scores[0].mean, row.average.mean) == (40, 40)
    assert "In parentheses" not in report_text(report, short=True)


def test_orders_of_the_same_tasks_are_no_parts(tmp_path):
    assert make_report(collect([write_runs(tmp_path)])).task_groups == ()
