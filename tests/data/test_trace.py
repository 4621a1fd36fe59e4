"""TRACE's folders: whole prompts and answers, scored as the benchmark scores each task."""

from __future__ import annotations

import json

import pytest
from refusals import refused

from clora_cli.data import METRICS, load_task
from clora_cli.data.known_tasks import KNOWN, TRACE
from clora_cli.recipes.orders import orders

FOLDERS = {
    "C-STANCE": ("c-stance", "exact-match", "A"),
    "FOMC": ("fomc", "exact-match", "B"),
    "MeetingBank": ("meetingbank", "rouge-l", "They met."),
    "Py150": ("py150", "code-similarity", "x = <NUM_LIT:1>"),
    "ScienceQA": ("scienceqa", "first-character", "C\nBecause it is so."),
    "NumGLUE-cm": ("numglue-cm", "exact-match", "12.5"),
    "NumGLUE-ds": ("numglue-ds", "exact-match", "7"),
    "20Minuten": ("20minuten", "sari", "Ein Satz."),
}


@pytest.fixture
def root(tmp_path):
    """The benchmark's layout, a few rows made on the spot."""
    for folder, (_, _, answer) in FOLDERS.items():
        (tmp_path / "LLM-CL-Benchmark" / folder).mkdir(parents=True)
        for split, count in (("train", 4), ("eval", 2), ("test", 3)):
            rows = [{"prompt": f"{folder}: {split} {number}\nAnswer:", "answer": answer} for number in range(count)]
            (tmp_path / "LLM-CL-Benchmark" / folder / f"{split}.json").write_text(json.dumps(rows), encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize("folder", FOLDERS)
def test_each_task_is_found_by_name_and_read_by_path_alike(folder, root, monkeypatch):
    name, metric, answer = FOLDERS[folder]
    monkeypatch.setenv("CLORA_DATA", str(root))
    task = load_task(name)
    assert (task.name, task.metric, task.source) == (name, metric, f"TRACE {folder}")
    assert (len(task.train), len(task.dev), len(task.test)) == (4, 2, 3)
    assert (task.test[0].prompt, task.test[0].references) == (f"{folder}: test 0\nAnswer:", (answer,))
    assert task.labels == KNOWN[name].labels
    assert load_task(str(root / "LLM-CL-Benchmark" / folder)) == task


def test_the_order_has_all_eight_and_each_metric_exists():
    tasks = {name: task for name, task in KNOWN.items() if task.family == TRACE}
    assert set(orders()["trace"]) == set(tasks) == {name for name, _, _ in FOLDERS.values()}
    assert {task.metric for task in tasks.values()} <= set(METRICS)


def test_a_task_that_is_not_here_says_what_to_set(monkeypatch):
    monkeypatch.delenv("CLORA_DATA", raising=False)
    with refused("data-not-found", "'py150'", "TRACE's task folders"):
        load_task("py150")


def test_a_folder_of_the_same_name_with_columns_of_its_own_keeps_its_metric(tmp_path):
    rows = [{"text": f"t {number}", "label": "ab"[number % 2]} for number in range(20)]
    (tmp_path / "fomc").mkdir()
    (tmp_path / "fomc" / "train.json").write_text(json.dumps(rows), encoding="utf-8")
    task = load_task(str(tmp_path / "fomc"))
    assert (task.metric, task.labels) == ("exact-match", ("a", "b"))
