"""Rows that a package's model makes: of which tasks, with what provenance, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from refusals import refused
from support import train

from clora_cli.base.files import sha256
from clora_cli.data.made_rows import read_made
from clora_cli.evaluation.synthesis import synthesize
from clora_cli.evaluation.synthesis_plan import plan_synthesis
from clora_cli.options import SynthesizeOptions
from clora_cli.store.package import read_package


@pytest.fixture(scope="module")
def package(tmp_path_factory, model_folder, tasks):
    root = tmp_path_factory.mktemp("package")
    for task in ("first", "second"):
        train(model_folder("llama"), tasks[task], root / "adapters", method="seq-lora", max_steps=30)
    return read_package([root / "adapters"])


@pytest.fixture
def options(tmp_path):
    return SynthesizeOptions(rows=4, out=tmp_path / "pseudo.jsonl", device="cpu", temperature=1.5)


def test_rows_of_every_task_are_written_with_what_made_them(package, options, tasks):
    plan = plan_synthesis(package, options)
    counts, made = synthesize(plan)
    assert made and set(counts) == {"first", "second"} and 0 < max(counts.values()) <= 4
    rows = read_made(options.out)
    assert {drawn.task.name: len(drawn.examples) for drawn in rows} == counts
    labels = {"great", "very bad", "so so"}
    assert {row.references[0] for drawn in rows for row in drawn.examples} <= labels
    record = json.loads(plan.record.read_text())
    assert record["sha256"] == sha256(options.out) and record["rows"] == counts
    assert [entry["sha256"] for entry in record["adapters"]] == [member.digest for member in package]


def test_the_same_call_finds_them_up_to_date_and_another_is_refused(package, options):
    one = replace(options, task=("first",))
    counts, _ = synthesize(plan_synthesis(package, one))
    written = options.out.read_bytes()
    assert synthesize(plan_synthesis(package, one)) == (counts, False)
    other = plan_synthesis(package, replace(one, seed=7))
    with refused("output-made-differently", options.out, "seed 42 -> 7"):
        synthesize(other)
    assert synthesize(other, force=True)[1] and options.out.read_bytes() != written
    synthesize(plan_synthesis(package, one), force=True)
    assert options.out.read_bytes() == written


@pytest.mark.parametrize("change", ["rows", "record"])
def test_rows_that_were_changed_are_not_taken_for_what_was_made(package, options, change):
    plan = plan_synthesis(package, replace(options, task=("first",)))
    synthesize(plan)
    if change == "rows":
        options.out.write_text(options.out.read_text() + "\n")
    else:
        plan.record.unlink()
    with refused("output-made-differently", options.out):
        synthesize(plan)


def test_what_is_not_in_the_package_is_refused(package, options, tasks):
    with refused("task-not-in-package", "thrid", "first, second"):
        plan_synthesis(package, replace(options, task=("thrid",)))
    with refused("examples-of-several-tasks", "--task"):
        plan_synthesis(package, replace(options, examples=str(tasks["third"])))
    assert set(plan_synthesis(package, replace(options, task=("first",), examples=str(tasks["third"]))).sources) == {
        "first"
    }


def test_nothing_is_written_where_the_model_makes_nothing_new(package, options, monkeypatch):
    monkeypatch.setattr("clora_cli.evaluation.package_writer.imagine", lambda *given, **how: [])
    with refused("nothing-synthesized", "first"):
        synthesize(plan_synthesis(package, options))
    assert not list(options.out.parent.glob("pseudo*"))


def test_a_folder_where_the_rows_are_to_be_is_told_before_any_is_made(package, options):
    options.out.mkdir()
    with refused("target-not-regular-file", "--out", options.out, "another name"):
        plan_synthesis(package, options)
