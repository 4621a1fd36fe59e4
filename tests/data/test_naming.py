"""Prompts that begin with the task's and the dataset's name: asked for, recorded, found again."""

from __future__ import annotations

import json

import pytest
from refusals import refused

from clora_cli.data import load_task, named_task
from clora_cli.data.naming import NAMED, split_names
from clora_cli.store.manifest import Manifest


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A CL_Benchmark root with two tasks."""
    rows = [{"sentence": f"sentence 1: it is {n}\nsentence 2: it is not", "label": "contradiction"} for n in range(20)]
    for kind, name in (("NLI", "MNLI"), ("COPA", "COPA"), ("SC", "SST-2")):
        folder = tmp_path / "CL_Benchmark" / kind / name
        folder.mkdir(parents=True)
        labels = ["contradiction", "entailment"]
        for split in ("train", "dev", "test"):
            (folder / f"{split}.json").write_text(
                json.dumps([{**row, "sentence": split + row["sentence"]} for row in rows])
            )
        (folder / "labels.json").write_text(json.dumps(labels))
    monkeypatch.setenv("CLORA_DATA", str(tmp_path))


def test_names_come_before_the_instruction(root):
    plain, named = load_task("mnli"), load_task("mnli+names")
    for split in ("train", "dev", "test"):
        for one, other in zip(getattr(plain, split), getattr(named, split), strict=True):
            assert other.prompt == "Task:NLI\nDataset:MNLI\n" + one.prompt
            assert (other.body, other.cue, other.references) == (one.body, one.cue, one.references)
    assert (plain.name, plain.template) == (named.name, "options")
    assert named.template == "options-named"
    assert plain.fingerprint != named.fingerprint
    assert named.labels == plain.labels
    assert any("NLI, MNLI" in note for note in named.notes)


def test_datasets_are_spelled_as_the_published_scripts_spell_them(root):
    assert load_task("copa+names").test[0].head == "Task:COPA\nDataset:COPA\n"
    assert load_task("SST-2+names").test[0].head.startswith("Task:SC\nDataset:SST-2\nWhat is the sentiment")
    assert load_task("yes-no+names").test[0].head.startswith("Task:question answering\nDataset:yes-no\n")


@pytest.mark.parametrize("name", ["mnli", "rows.csv+names", "nothing+names", "folder/+names"])
def test_other_names_are_left_as_they_are(name):
    assert split_names(name) == (name, False)


def test_tasks_whose_prompts_had_no_names_say_so(tmp_path, monkeypatch):
    content = {"Definition": ["Sum up."], "Instances": [{"input": f"text {n}", "output": ["short"]} for n in range(20)]}
    (tmp_path / "task1572_samsum_summary.json").write_text(json.dumps(content))
    monkeypatch.setenv("CLORA_DATA", str(tmp_path))
    with refused("task-without-names", "'task1572+names'", "--data task1572"):
        load_task("task1572+names")


def test_a_task_trained_with_names_is_found_with_them_under_every_spelling(tmp_path):
    class Member:
        path = tmp_path
        manifest = Manifest({"data": {"name": "topics-news", "given": "topics-news+names", "columns": {}}})

    for spelling in ("topics-news", "Topics_News"):
        assert named_task(spelling, [Member()], "").template == NAMED
    assert named_task("yes-no", [Member()], "").template == "options"
