"""Commands that are given no data take what the adapters were trained on, as it was given."""

from __future__ import annotations

import json

import pytest
from support import one_line, sentences, train

from clora_cli.store.distribution import read_record


@pytest.fixture
def trained(clora, here, model_folder):
    """An adapter that was trained on a file which is named like a bundled task."""
    rows = [json.dumps({"review": text, "label": label}) for text, label in sentences(3, 40)]
    (here / "w").mkdir()
    (here / "w" / "inference.jsonl").write_text("\n".join(rows), encoding="utf-8")
    return train(model_folder("llama"), "w/inference.jsonl", here / "p", max_steps=1, columns={"text": "review"})


def test_a_file_named_like_a_bundled_task_is_what_is_scored_and_read(trained, clora, here):
    for named in ((), ("--data", "inference")):
        scored = clora("eval", "p", "--score", "labels", "--json", "--device", "cpu", *named)
        assert json.loads(scored.out)["rows"][0]["scores"]["inference"]["total"] == 4
        assert clora("stat-features", "p", "--device", "cpu", "-q", "--force", *named).code == 0
        (data,) = read_record(trained.features).raw["data"]
        assert data["fingerprint"] == trained.manifest.raw["data"]["fingerprint"]
    routed = clora("route", "p", "--data", "inference", "--abstain", 0.2, "--device", "cpu", "-q")
    assert routed.code == 0 and routed.out.count("\n") == 4


def test_a_merge_is_scored_on_what_its_adapters_were_trained_on(trained, clora):
    assert clora("merge", "p/inference", "-o", "merged", "-q").code == 0
    scored = clora("eval", "merged", "--score", "labels", "--json", "--device", "cpu")
    assert json.loads(scored.out)["rows"][0]["scores"]["inference"]["total"] == 4


@pytest.mark.parametrize(
    "command", [("eval", "p"), ("stat-features", "p", "--force"), ("route", "p", "--data", "inference")]
)
def test_other_rows_are_refused(trained, clora, here, command):
    assert clora("stat-features", "p", "--device", "cpu", "-q").code == 0
    path = here / "w" / "inference.jsonl"
    path.write_text(path.read_text(encoding="utf-8").replace("boat", "ship"), encoding="utf-8")
    result = clora(*command, "--device", "cpu")
    assert result.code == 4 and "holds other rows than p/inference was trained on" in one_line(result)


def test_a_path_that_is_not_there_from_here_is_said_so(trained, clora, here, monkeypatch):
    monkeypatch.chdir(here / "w")
    for command in (("eval", "../p"), ("stat-features", "../p")):
        result = clora(*command, "--device", "cpu")
        assert result.code == 3 and "no such file from this folder; run where it is, or" in one_line(result)


def test_rows_that_share_one_prompt_are_shown_and_not_scored(clora, here):
    rows = [json.dumps({"text": "same", "label": "ab"[number % 2]}) for number in range(20)]
    (here / "dup.jsonl").write_text("\n".join(rows), encoding="utf-8")
    shown = clora("tasks", "dup.jsonl")
    assert shown.code == 0 and "all 20 rows share one prompt" in shown.out and "prompt   same" in shown.out
    scored = clora("eval", "--data", "dup.jsonl", "--device", "cpu")
    assert scored.code == 3 and scored.err.splitlines()[-1].startswith(
        "error: task 'dup' (file dup.jsonl) has no test rows"
    )


def test_the_first_call_without_data_names_what_works_next(clora, here, monkeypatch):
    monkeypatch.delenv("CLORA_DATA", raising=False)
    result = clora("train-task", "--method", "n-lora", "--data", "mnli")
    assert result.code == 3 and "what works next: --data inference (bundled, a task of its kind)" in one_line(result)
    assert clora("train-task", "--method", "n-lora", "--data", "inference", "--dry-run").code == 0
