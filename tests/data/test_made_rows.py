from __future__ import annotations

import json

import pytest
from refusals import refused

from clora_cli.data import load_task
from clora_cli.data.made_rows import MadeRow, distinct, read_made, to_lines


def test_rows_that_are_written_are_read_by_task(tmp_path):
    path = tmp_path / "pseudo.jsonl"
    plain = [MadeRow("a\nAnswer:", "one"), MadeRow("b", "zwei — ñ")]
    path.write_text(
        to_lines("first", plain, "options") + to_lines("talk", [MadeRow("hi", "ho")], "chat"), encoding="utf-8"
    )
    first, talk = read_made(path)
    assert (first.task.name, first.task.template, talk.task.name, talk.task.template) == (
        "first",
        "plain",
        "talk",
        "chat",
    )
    assert [(row.prompt, row.references) for row in first.examples] == [("a\nAnswer:", ("one",)), ("b", ("zwei — ñ",))]
    assert talk.examples[0].turns == (("user", "hi"),) and talk.examples[0].references == ("ho",)


def test_the_lines_are_data_of_a_task(tmp_path):
    path = tmp_path / "pseudo.jsonl"
    path.write_text(to_lines("first", [MadeRow(f"row {n}", str(n)) for n in range(9)], "options"), encoding="utf-8")
    task = load_task(str(path))
    rows = [*task.train, *task.dev, *task.test]
    assert {(row.prompt, row.references[0]) for row in rows} == {(f"row {n}", str(n)) for n in range(9)}


def test_rows_without_a_task_are_of_one_named_like_the_file(tmp_path):
    path = tmp_path / "mine.jsonl"
    path.write_text(json.dumps({"prompt": "a", "completion": "b"}) + "\n", encoding="utf-8")
    assert [rows.task.name for rows in read_made(path)] == ["mine"]


@pytest.mark.parametrize(
    "row", [{"prompt": "a"}, {"text": "a", "label": "b"}, {"task": 3, "prompt": "a", "completion": "b"}]
)
def test_what_is_no_row_of_a_memory_is_refused(tmp_path, row):
    path = tmp_path / "mine.jsonl"
    path.write_text(json.dumps(row) + "\n", encoding="utf-8")
    with refused("made-row-malformed", path, "line 1"):
        read_made(path)


def test_repetitions_and_barred_texts_are_dropped():
    assert distinct(["A  b", "a B", "", " ", "c", "d"], barred=["C "]) == ["A  b", "d"]
