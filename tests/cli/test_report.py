from __future__ import annotations

import json

import pytest
from reported import bits, cell, stage_scores, write_routes, write_run, write_runs
from support import contents, one_line

from clora_cli.base.files import to_json, write_text


@pytest.fixture
def runs(here):
    return write_runs(here / "runs")


def test_a_folder_of_runs_becomes_every_form(clora, here):
    write_run(here / "runs", "n-lora", 1, [[8], [5, 7]])
    write_run(here / "runs", "seq-lora", 1, [[8], [1, 9]])
    outs = [f"r.{ending}" for ending in ("html", "md", "tex", "csv", "json", "png")]
    result = clora("report", "runs", *(word for out in outs for word in ("-o", out)), "--compare", "n-lora", "seq-lora")
    assert result.code == 0, result.err
    assert {path.name for path in here.iterdir()} == {*outs, "runs"}
    assert "| n-lora | seq-lora" in result.out
    assert "clora report runs -o r.html" in (here / "r.html").read_text(encoding="utf-8")
    assert clora("report", "runs", "-q").out.split() == ["60.00", "50.00"]
    printed = json.loads(clora("report", "runs", "--json", "--compare", "n-lora", "seq-lora").out)
    assert printed == json.loads((here / "r.json").read_text(encoding="utf-8"))


def test_quiet_prints_a_number_for_each_method_and_nan_for_one_that_misses_an_order(clora, runs):
    assert clora("report", str(runs), "-q").out.split() == ["60.00", "nan", "50.00"]


def test_packages_and_routes_are_material_too(clora, package, here):
    write_routes(here / "routes.json")
    result = clora("report", "adapters", "routes.json", "--out", "r.html")
    assert result.code == 0, result.err
    text = (here / "r.html").read_text(encoding="utf-8")
    assert 'id="interference"' in text and 'id="routing"' in text and 'id="results"' not in text
    assert "right: 85.00 % (macro)" in result.out


def test_a_run_that_goes_on_is_named_and_left_out(clora, here):
    write_run(here / "runs", "n-lora", 1, [[5], [4, 6]])
    write_run(here / "runs", "n-lora", 2, [[5]])
    result = clora("report", "runs", "-q")
    assert (result.code, result.out) == (0, "50.00\n")
    assert result.err == "warning: n-lora, seed 2, has learned 1 of 2 tasks: left out until it is finished\n"


@pytest.mark.parametrize(
    ("arguments", "code", "reason", "told"),
    [
        (["nowhere"], 3, "path-missing", "nowhere"),
        (["runs/order1/cost.jsonl", "-o", "r.csv"], 2, "no-scores-to-write", "--out r.csv"),
        (["runs", "-o", "r.docx"], 2, "output-ending-unknown", ".html, .md"),
        (["runs", "--compare", "n-lora", "seq-lor"], 2, "unknown-name", "'seq-lora'"),
        (["runs", "empty"], 3, "folder-without-results", "empty"),
        (["runs", "-o", "/proc/clora/r.html"], 1, "cannot-write", "/proc/clora"),
    ],
)
def test_refusals_are_one_line_and_write_nothing(clora, runs, here, arguments, code, reason, told):
    (here / "empty").mkdir()
    before = contents(here)
    result = clora("report", *arguments)
    assert result.error == reason
    assert result.code == code
    assert told in one_line(result)
    assert contents(here) == before


def test_eval_holds_limits_on_what_was_forgotten(clora, package, here):
    arguments = ("eval", "adapters", "--score", "labels", "--device", "cpu", "-q")
    first = clora(*arguments, "--out", "now.json")
    assert first.code == 0
    now = json.loads((here / "now.json").read_text(encoding="utf-8"))
    # As if the first task had once been right throughout.
    before = json.loads(json.dumps(now))
    entry = before["rows"][0]["scores"]["first"]
    entry |= {"value": 100.0, "correct": entry["total"], "per_row": [1.0] * entry["total"]}
    write_text(here / "before.json", to_json(before))
    lost = 100 - now["rows"][0]["scores"]["first"]["value"]
    assert lost > 0
    gates = ("--baseline", "now.json", "--baseline", "before.json", "--max-forgetting")
    assert clora(*arguments, *gates, lost + 0.01).code == 0
    failed = clora(*arguments, *gates, lost - 0.01, "--fail-under", 101)
    assert (failed.code, failed.out) == (5, first.out)
    assert "is below --fail-under 101; first lost" in failed.err
    assert f"from 100.00 (before.json) to {100 - lost:.2f}" in failed.err
    assert failed.err.count("\n") == 1
    matrix = clora(*arguments, "--matrix", "--max-forgetting", 100)
    assert matrix.code == 0


@pytest.mark.parametrize(
    ("arguments", "reason", "told"),
    [
        (["--max-forgetting", "2"], "option-missing", "--matrix"),
        (["--baseline", "before.json"], "option-missing", "--max-forgetting"),
        (["--matrix", "--max-forgetting", "-1"], "option-out-of-range", "--max-forgetting -1"),
        (["--baseline", "before.json", "--max-forgetting", "2"], "baseline-task-not-scored", "--data other"),
        (["--baseline", "base.json", "--max-forgetting", "2"], "baseline-without-scores", "--baseline base.json"),
    ],
)
def test_eval_refuses_limits_that_could_not_be_judged_before_it_scores(clora, package, here, arguments, reason, told):
    before = stage_scores(1, {"other": 5}, "old", "m", order=("other",))
    write_text(here / "before.json", to_json(before.to_dict()))
    base = stage_scores(0, {"first": 5}, "", "", order=())
    base.rows[0].scores["first"] = cell(bits(3))
    write_text(here / "base.json", to_json(base.to_dict()))
    result = clora("eval", "adapters", "--device", "cpu", *arguments)
    assert result.error == reason
    assert result.code == 2
    assert told in one_line(result)
