"""A sweep's points in a report: a table, a figure, JSON."""

from __future__ import annotations

import json

import pytest
from pages import Page
from reported import write_run

from clora_cli.presenting.report_file import write_report
from clora_cli.presenting.report_text import report_text
from clora_cli.reporting.assembly import make_report
from clora_cli.reporting.collect import collect


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    root = tmp_path_factory.mktemp("swept")
    for top_k, rights in ((10, 4), (2, 6)):
        for temperature in ("0.5", "all"):
            label = f"n-lora@top-k={top_k}@temperature={temperature}"
            for seed in (1, 2):
                write_run(root, label, seed, [[8], [rights, rights + seed]])
    write_run(root, "seq-lora", 1, [[8], [1, 9]])
    return make_report(collect([root]))


def test_points_lie_by_their_settings_in_the_order_of_numbers(report):
    (sweep,) = report.sweeps
    assert (sweep.stem, sweep.settings) == ("n-lora", ("top-k", "temperature"))
    assert sweep.horizontal == ["2", "10"]
    assert {others: list(groups) for others, groups in sweep.lines.items()} == {
        ("0.5",): ["10", "2"],
        ("all",): ["10", "2"],
    }


def test_markdown_page_and_json_tell_it(report, tmp_path):
    text = report_text(report, short=True)
    assert "## Sweep of n-lora" in text
    assert "| 10 | 0.5 | 47.50 ± 3.54 |" in " ".join(text.split())
    for ending in ("html", "json"):
        write_report(report, tmp_path / f"r.{ending}")
    page = Page((tmp_path / "r.html").read_text(encoding="utf-8"))
    assert "Sweeps" in page.titles
    (data,) = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))["sweeps"]
    assert data["settings"] == ["top-k", "temperature"] and len(data["points"]) == 4
    assert {"values": ["2", "all"], "method": "n-lora@top-k=2@temperature=all"} in data["points"]
