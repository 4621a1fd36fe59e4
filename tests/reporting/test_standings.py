"""Who is ranked, and by what."""

from __future__ import annotations

import pytest
from reported import bring, stage_scores, write_runs

from clora_cli.presenting.markdown_tables import standings_table
from clora_cli.reporting import assemble, bring_together
from clora_cli.reporting.standings import standings


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return bring(write_runs(tmp_path_factory.mktemp("runs")))


def test_what_methods_do_without_comes_from_the_plug_ins(results):
    assert [row.without for row in standings(results).rows] == [(True, True, True), (True, False, False), (True,) * 3]
    composed = stage_scores(1, {"first": 5}, "a", "o-lora+n-lora")
    unknown = stage_scores(1, {"first": 5}, "b", "somebody-s-own")
    rows = standings(bring_together(assemble([composed, unknown]))).rows
    assert [row.without for row in rows] == [(True, True, True), (None, True, None)]
    assert "?" in standings_table(standings(bring_together(assemble([unknown]))))


def test_only_methods_that_are_not_helped_are_ranked(results):
    found = standings(results)
    assert [column.title for column in found.columns] == ["AP", "F.Ra", "FWT", "BWT"]
    first = {row.label: [cell.rank for cell in row.cells[:4]] for row in found.rows}
    assert first == {"n-lora": [1, 1, 2, 1], "per-task": [0] * 4, "seq-lora": [2, 2, 1, 2]}


def test_equal_to_two_decimals_is_equally_good():
    files = [stage_scores(1, {"first": right}, name, name) for name, right in (("a", 5), ("b", 5), ("c", 4))]
    assert [row.cells[0].rank for row in standings(bring_together(assemble(files))).rows] == [1, 1, 0]
