"""Tasks for lm-evaluation-harness, and its tasks here; what needs the harness itself runs where it is installed."""

from __future__ import annotations

import importlib.util
import json
import sys
from dataclasses import replace

import pytest
from refusals import refused

from clora_cli.data import load_task
from clora_cli.data.harness import read_harness
from clora_cli.evaluation.harness_tasks import scorer, write_harness_task
from clora_cli.evaluation.text import Grading
from clora_cli.recipes.recipe import folder_name

installed = pytest.mark.skipif(
    importlib.util.find_spec("lm_eval") is None, reason="lm-evaluation-harness is not installed"
)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    task = load_task("topics-news")
    folder = tmp_path_factory.mktemp("lm eval")
    return task, folder, write_harness_task(task, folder)


def test_rows_are_the_prompts_and_answers_of_the_task(exported):
    task, folder, name = exported
    assert name == "clora_topics_news"
    for split in ("train", "dev", "test"):
        docs = [
            json.loads(line) for line in (folder / f"{name}.{split}.jsonl").read_text(encoding="utf-8").splitlines()
        ]
        assert [(doc["prompt"], tuple(doc["references"])) for doc in docs] == [
            (row.prompt, row.references) for row in getattr(task, split)
        ]


def test_no_two_tasks_write_the_same_files(exported, tmp_path):
    task, _, _ = exported
    task = replace(task, train=(), dev=(), test=task.test[:1])
    names = [write_harness_task(replace(task, name=name), tmp_path) for name in ("情感", "文本", "a-b", "a_b", "a.b")]
    assert len(set(names)) == len(names)
    assert all(name.isidentifier() and name.isascii() for name in names)
    assert names[2] == "clora_a_b"


def test_answers_score_as_in_an_evaluation(exported):
    task, folder, name = exported
    score = scorer(str(folder / f"{name}.py"))
    grading = Grading.of(task.metric, task.labels, [label for row in task.test for label in row.references])
    row = task.test[0]
    doc = {"prompt": row.prompt, "references": list(row.references)}
    for said in (row.references[0], f" {row.references[0].upper()}.\nmore", "nothing", ""):
        assert score(doc, [said]) == {"exact_match": grading.grade(said.strip(), row.references)}


@pytest.mark.parametrize(
    "facts", [{}, {"metric": 3, "labels": 4, "references": 5}, {"metric": "zz", "labels": [], "references": []}]
)
def test_damaged_facts_of_an_exported_task_are_refused_in_a_line(facts, tmp_path):
    (tmp_path / "clora_t.json").write_text(json.dumps(facts), encoding="utf-8")
    with refused("file-damaged", "(metric)", "--lm-eval"):
        scorer(str(tmp_path / "clora_t.py"))


def test_without_the_harness_its_tasks_are_refused_in_a_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    monkeypatch.setitem(sys.modules, "lm_eval.tasks", None)
    with refused("harness-missing", "lm-eval:sciq", "pip install lm-eval"):
        load_task("lm-eval:sciq")


def test_a_harness_task_has_a_folder_of_its_own_name():
    assert folder_name("lm-eval:arc_easy") == "arc_easy"


@installed
def test_the_harness_reads_what_was_written_and_clora_reads_it_back(exported):
    task, folder, name = exported
    draft = read_harness(name, include=folder)
    assert draft.metric == "exact-match"
    for split, rows in draft.splits.items():
        assert [(row.prompt, row.references[0]) for row in rows] == [
            (row.prompt, row.references[0]) for row in getattr(task, split)
        ]


def described(folder, **entries):
    """A task of the harness in a folder of its own, of rows with a question and a number."""
    rows = entries.pop("rows", "".join(f'{{"q": "q {number}", "a": {number}}}\n' for number in range(4)))
    (folder / "rows.jsonl").write_text(rows, encoding="utf-8")
    told = {"doc_to_text": "q", "doc_to_target": "a", "output_type": "generate_until", **entries}
    files = {"data_files": {"test": str(folder / "rows.jsonl")}}
    whole = {"task": "own", "dataset_path": "json", "dataset_kwargs": files, "test_split": "test", **told}
    (folder / "own.yaml").write_text(json.dumps(whole), encoding="utf-8")
    return read_harness("own", include=folder)


@installed
def test_what_a_task_of_the_harness_lacks_ends_in_a_line(tmp_path):
    assert [row.references for row in described(tmp_path).splits["test"]] == [(str(n),) for n in range(4)]
    for fault in ({"doc_to_text": "{{gone}}"}, {"rows": "\n"}, {"rows": "no rows"}, {"output_type": "banana"}):
        with refused("data-not-readable", "own"):
            described(tmp_path, **fault)


@installed
def test_choices_are_answers_by_their_text(tmp_path):
    rows = [{"q": f"What is {number}?", "choices": ["one", "two"], "gold": number % 2} for number in range(6)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (tmp_path / "t.yaml").write_text(
        f"task: choosing\ndataset_path: json\ndataset_kwargs:\n  data_files: {{test: {tmp_path}/rows.jsonl}}\ntest_split: test\n"
        "output_type: multiple_choice\ndoc_to_text: '{{q}}'\ndoc_to_choice: '{{choices}}'\ndoc_to_target: gold\n"
        "metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]\n",
        encoding="utf-8",
    )
    draft = read_harness("choosing", include=tmp_path)
    assert [row.references for row in draft.splits["test"]] == [("one",), ("two",)] * 3
    assert draft.splits["test"][0].prompt == "What is 0?"
    with refused("data-not-found", "lm-eval:chosing", "choosing"):
        read_harness("chosing", include=tmp_path)
