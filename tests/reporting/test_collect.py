"""What a report is made from: found by content, damaged files refused."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from refusals import refused
from reported import cost, write_packages, write_routes, write_runs

from clora_cli.model.backbone import load_backbone
from clora_cli.model.base_model import find_model
from clora_cli.reporting.assembly import make_report
from clora_cli.reporting.collect import collect


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return write_runs(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def trained(tmp_path_factory, model_folder):
    base = load_backbone(find_model(str(model_folder("llama"))), device=torch.device("cpu"))
    return write_packages(tmp_path_factory.mktemp("packages"), base)


@pytest.fixture
def packages(trained, tmp_path):
    """The same, to be changed."""
    return shutil.copytree(trained, tmp_path / "runs")


def test_everything_in_a_folder_is_found_by_its_content(runs, packages):
    write_routes(packages / "any-name.json")
    (packages / "other.json").write_text('{"schema": "something/1"}', encoding="utf-8")
    (packages / "list.json").write_text("[1]", encoding="utf-8")
    (packages / ".hidden").mkdir()
    (packages / ".hidden" / "broken.json").write_text("{", encoding="utf-8")
    material = collect([runs, packages, packages / "any-name.json", runs])
    assert (len(material.scores), len(material.packages), len(material.routes)) == (22, 3, 1)
    assert [len(steps) for steps in material.costs.values()] == [36, 8]
    assert {package.name for package in material.packages} == {"n-lora", "seq-lora"}
    assert len(material.files) == 22 + 3 + 1 + 2
    one = collect([packages / "n-lora" / "seed-1" / "adapters" / "first"])
    assert [len(package.members) for package in one.packages] == [1]


def test_what_fits_nothing_is_refused_in_one_line(tmp_path, runs):
    (tmp_path / "empty").mkdir()
    for name, text in (
        ("odd.json", "{}"),
        ("broken.json", "{"),
        ("odd.txt", "hello"),
        ("cost.jsonl", '{"schema": "x"}\n'),
    ):
        (tmp_path / name).write_text(text, encoding="utf-8")
    for name, code in (
        ("nowhere", "path-missing"),
        ("empty", "folder-without-results"),
        ("odd.json", "file-of-other-kind"),
        ("cost.jsonl", "file-of-other-kind"),
        ("broken.json", "file-damaged"),
        ("odd.txt", "file-damaged"),
    ):
        with refused(code, tmp_path / name):
            collect([runs, tmp_path / name])


@pytest.mark.parametrize(
    ("change", "code", "named"),
    [
        ({"seconds": None}, "cost-record-damaged", "line 1: seconds"),
        ({"peak_memory_bytes": -1}, "cost-record-damaged", "line 1: peak_memory_bytes"),
        ({"stage": "1"}, "cost-record-damaged", "line 1: stage"),
        ({"task": 3}, "cost-record-damaged", "line 1: task"),
        ({"schema": "clora.cost/2"}, "file-of-other-kind", "cost.jsonl"),
    ],
)
def test_damaged_costs_are_refused_by_line(tmp_path, change, code, named):
    line = {**cost("n-lora", 1, "first", 1, "train", 2.0), **change}
    (tmp_path / "cost.jsonl").write_text(json.dumps(line) + "\n", encoding="utf-8")
    with refused(code, named):
        collect([tmp_path / "cost.jsonl"])


def test_of_a_step_done_twice_the_last_counts_and_a_line_cut_off_does_not(tmp_path):
    lines = [json.dumps(cost("n-lora", 1, "first", 1, "train", seconds)) for seconds in (2.0, 3.0)]
    (tmp_path / "cost.jsonl").write_text("\n".join([*lines, lines[0][:20]]), encoding="utf-8")
    assert [one.seconds for one in collect([tmp_path]).costs[tmp_path / "cost.jsonl"]] == [3.0]


def test_a_foreign_file_that_is_no_json_is_passed_over(tmp_path):
    write_runs(tmp_path)
    (tmp_path / "settings.json").write_text("{ // mine\n}", encoding="utf-8")
    assert len(collect([tmp_path]).scores) == 22


def test_a_folder_with_a_space_in_its_name_is_one_folder(tmp_path):
    write_runs(tmp_path / "my runs")
    assert len(make_report(collect([tmp_path / "my runs"])).results.runs) == 11
