"""Every form that a report is written in: read back, and computed again from the input."""

from __future__ import annotations

import csv
import io
import json
import re
from statistics import fmean

import pytest
from pages import Page
from refusals import refused
from reported import bits, cell, stage_scores, write_routes, write_runs

from clora_cli.base.files import to_json, write_text
from clora_cli.presenting.export import CSV_HEADER, report_json
from clora_cli.presenting.report_file import ENDINGS, check_out, write_report
from clora_cli.presenting.report_text import report_text
from clora_cli.reporting.assembly import make_report
from clora_cli.reporting.collect import collect


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return write_runs(tmp_path_factory.mktemp("runs"))


def report_of(*paths, **options):
    return make_report(collect(paths), **options)


def test_the_csv_holds_every_score_of_every_run(runs, tmp_path):
    write_report(report_of(runs), tmp_path / "r.csv")
    rows = list(csv.DictReader(io.StringIO((tmp_path / "r.csv").read_text(encoding="utf-8"))))
    assert tuple(rows[0]) == CSV_HEADER
    series, rows = [row for row in rows if not row["task"]], [row for row in rows if row["task"]]
    assert len(rows) == 11 * 3  # two stages: one task, then two
    chosen = [
        float(row["value"])
        for row in rows
        if (row["method"], row["order"], row["stage"], row["task"]) == ("n-lora", "order1", "2", "first")
    ]
    assert chosen == pytest.approx([50, 60, 70])
    assert {row["seed"] for row in rows} == {"1", "2", "3"}
    assert {(row["metric"], row["test_rows"]) for row in rows} == {("exact-match", "10")}
    anytime = [
        float(row["value"])
        for row in series
        if (row["method"], row["order"], row["stage"], row["metric"])
        == ("n-lora", "order1", "2", "average-anytime-performance")
    ]
    assert anytime == pytest.approx([(80 + 60) / 2, (80 + 70) / 2, (80 + 80) / 2])  # after the first stage 80, then AP


def test_markdown_and_json_tell_the_same(runs, tmp_path):
    report = report_of(runs, pairs=[("n-lora", "seq-lora")])
    for ending in ("md", "json", "tex"):
        write_report(report, tmp_path / f"r.{ending}")
    text = (tmp_path / "r.md").read_text(encoding="utf-8")
    data = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))
    method = data["methods"][0]
    spread = method["orders"]["order1"]["metrics"]["average-performance"]
    assert spread == {"mean": pytest.approx(70), "deviation": pytest.approx(10)}
    assert re.search(r"\| n-lora +\| +✔ \| +✔ \| +✔ \| +4 \| +\*\*70\.00 ± 10\.00\*\* \|", text)
    (pair,) = data["significance"]
    assert f"| {pair['difference']:.2f} |" in re.sub(r" +", " ", text)
    assert data["costs"][0]["train_seconds"]["mean"] == pytest.approx(fmean([11, 21, 12, 22, 13, 23, 11, 21]))
    assert "## n-lora, order1, mean of 3 runs" in text
    assert len({len(line) for line in text.split("\n\n")[1].splitlines()}) == 1
    pairs = report_json(report_of(runs))["significance"]
    assert [(one["first"], one["second"]) for one in pairs] == [
        ("n-lora", "per-task"),
        ("n-lora", "seq-lora"),
        ("per-task", "seq-lora"),
    ]


def test_a_terminal_gets_no_more_than_four_matrices(runs):
    report = report_of(runs)
    assert "after stage" in report_text(report)
    assert "after stage" not in report_text(report, short=True)
    assert "| n-lora" in report_text(report, short=True)


def test_a_pair_that_cannot_be_compared_is_refused_only_if_asked_for(tmp_path):
    for name, rows in (("a", bits(5)), ("b", bits(4, 8))):
        scores = stage_scores(1, {"first": 5}, name, name)
        scores.rows[0].scores["first"] = cell(rows)
        write_text(tmp_path / f"{name}.json", to_json(scores.to_dict()))
    assert report_json(report_of(tmp_path))["significance"] == []
    with refused("scored-rows-differ", 10, 8):
        report_of(tmp_path, pairs=[("a", "b")])


def test_endings_are_known_and_scores_are_needed_where_nothing_else_is_mean_and_deviation(tmp_path):
    report = report_of(write_routes(tmp_path / "routes.json"))
    for ending in (".csv", ".tex", ".png"):
        with refused("no-scores-to-write", f"r{ending}"):
            check_out(tmp_path / f"r{ending}", report)
    with refused("output-ending-unknown", "r.docx", ".html", ".pdf"):
        check_out(tmp_path / "r.docx")
    for ending in (".html", ".md", ".json"):
        write_report(report, tmp_path / f"r{ending}")
    assert "right: 85.00 % (macro)" in (tmp_path / "r.md").read_text(encoding="utf-8")
    assert Page((tmp_path / "r.html").read_text(encoding="utf-8")).titles == ["Routing", "Provenance"]
    assert set(ENDINGS) == {".html", ".md", ".tex", ".csv", ".json", ".png", ".svg", ".pdf"}
