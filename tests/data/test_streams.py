"""Rows without answers: from pipes and files, one after another, to the prompts that training would have seen."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import pytest
from refusals import refused

from clora_cli.data import Example, load_task
from clora_cli.data.columns import prompt_of
from clora_cli.data.readers import Record
from clora_cli.data.streams import read_lines, row_file, stream_records

ASK, TELL = {"role": "user", "content": "why"}, {"role": "assistant", "content": "because"}


def prompt(values: dict, columns: dict | None = None) -> Example:
    return prompt_of(Record("standard input", "line", 3, values), columns)


ROWS = [
    ({"prompt": "why {i}"}, {"completion": "x"}),
    ({"text": " why {i} "}, {"label": "x"}),
    ({"instruction": "Say.", "input": "why {i}"}, {"output": "x"}),
    ({"instruction": "Say why {i}."}, {"output": "x"}),
    ({"input": "why {i}"}, {"output": "x"}),
]


@pytest.mark.parametrize(("asked", "answer"), ROWS)
def test_a_prompt_is_that_of_training_with_and_without_its_answer(
    tmp_path: Path, asked: dict[str, str], answer: dict[str, str]
) -> None:
    rows = [{key: value.format(i=i) for key, value in asked.items()} | answer for i in range(12)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    task = load_task(str(tmp_path / "rows.jsonl"))
    trained = {example.prompt for example in (*task.train, *task.dev, *task.test)}
    for row in rows:
        bare = {key: value for key, value in row.items() if key in asked}
        assert prompt(bare) == prompt(row)
        assert prompt(bare).prompt in trained
        assert prompt(bare).references == ()


def test_a_conversation_is_taken_up_to_the_answer_that_is_asked_for() -> None:
    assert [role for role, _ in prompt({"messages": [ASK, TELL, ASK]}).turns] == ["user", "assistant", "user"]
    assert prompt({"messages": [ASK, TELL]}) == prompt({"messages": [ASK]}) == prompt({"prompt": [ASK]})
    assert prompt({"prompt": [ASK], "completion": [TELL]}) == prompt({"prompt": [ASK]})
    shared = prompt({"conversations": [{"from": "human", "value": "why"}], "system": "be brief"})
    assert shared.turns == (("system", "be brief"), ("user", "why"))


def test_of_two_prompts_that_beside_its_answer_counts() -> None:
    assert prompt({"prompt": "p", "text": "t", "label": "x"}).body == "t"
    assert prompt({"prompt": "p", "text": "t"}).body == "p"


def test_an_answer_that_cannot_be_read_does_not_matter() -> None:
    assert prompt({"text": "t", "label": {"odd": 1}}).body == "t"


def test_columns_are_named_by_role() -> None:
    assert prompt({"question": "why", "reply": "x"}, {"prompt": "question", "completion": "reply"}).body == "why"
    assert prompt({"question": "why", "text": "t"}, {"prompt": "question", "completion": "reply"}).body == "why"
    with refused("unknown-name", "'promt'", "'prompt'"):
        prompt({"question": "why"}, {"promt": "question"})
    with refused("column-missing", "line 3", "'query'", "prompt"):
        prompt({"question": "why"}, {"prompt": "query"})


@pytest.mark.parametrize(
    ("values", "code", "names"),
    [
        ({"words": "x"}, "columns-not-recognised", ["words", "messages", "prompt", "text", "input"]),
        ({}, "columns-not-recognised", ["none"]),
        ({"prompt": ""}, "prompt-empty", []),
        ({"prompt": None}, "prompt-empty", []),
        ({"instruction": " ", "input": " "}, "prompt-empty", []),
        ({"messages": [TELL]}, "prompt-empty", []),
        ({"prompt": {"a": 1}}, "value-not-text", ["'prompt' is a dict"]),
        ({"messages": "text"}, "turns-not-a-list", ["'messages'"]),
    ],
)
def test_a_row_that_asks_nothing_is_named_by_its_place(values: dict, code: str, names: list[str]) -> None:
    with refused(code, "standard input, line 3: ", *names):
        prompt(values)


def test_lines_are_read_as_they_are_asked_for() -> None:
    read = []

    def lines():
        for number in range(5):
            read.append(number)
            yield b'{"n": %d}\n' % number

    stream = read_lines(lines(), "standard input")
    assert read == []
    assert next(stream).values == {"n": 0}
    assert read == [0]


def test_blank_lines_count_and_a_byte_order_mark_does_not() -> None:
    found = list(read_lines([b'\xef\xbb\xbf{"a": 1}\r\n', b"\n", b"  \n", '{"a": "\u2028é"}'.encode()], "x"))
    assert [(row.where, row.values["a"]) for row in found] == [("x, line 1", 1), ("x, line 4", "\u2028é")]


@pytest.mark.parametrize(
    ("line", "code", "named"),
    [
        (b"{", "json-malformed", ""),
        (b'{"a": 1} {"a": 2}', "json-malformed", ""),
        (b"[1]", "row-not-an-object", "list"),
        (b"null", "row-not-an-object", "NoneType"),
        (b'{"a": NaN}', "json-malformed", "NaN"),
        (b'{"a": "\xff"}', "text-wrong-encoding", "UTF-8"),
        (b'{"a":' * 100_000, "json-malformed", ""),
        (b'{"a": ' + b"1" * 5000 + b"}", "json-malformed", "a number of 5000 digits"),
    ],
)
def test_a_bad_line_is_named(line: bytes, code: str, named: str) -> None:
    stream = read_lines([b'{"a": 1}\n', b"\n", line], "standard input")
    assert next(stream).number == 1
    with refused(code, "standard input, line 3: ", named):
        next(stream)


def test_files_are_rows_and_names_are_tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("rows.jsonl", "rows.CSV", "notes.txt", "mnli"):
        (tmp_path / name).write_text("x", encoding="utf-8")
    (tmp_path / "task1_x.json").write_text('{"Definition": ["d"], "Instances": []}', encoding="utf-8")
    (tmp_path / "folder.jsonl").mkdir()
    assert row_file("rows.jsonl") == Path("rows.jsonl")
    assert row_file("rows.CSV") == Path("rows.CSV")
    for name in ("notes.txt", "mnli", "yes-no", "task1_x.json", "folder.jsonl", "absent.jsonl"):
        assert row_file(name) is None


def test_files_of_each_kind_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "one"}\n\n{"text": "two"}\n', encoding="utf-8")
    (tmp_path / "a.csv").write_text("text,id\none,1\ntwo,2\n", encoding="utf-8")
    (tmp_path / "a.json").write_text('[{"text": "one"}, {"text": "two"}]', encoding="utf-8")
    for name in ("a.jsonl", "a.csv", "a.json"):
        assert [row.values["text"] for row in stream_records(tmp_path / name)] == ["one", "two"]
    with refused("path-unreadable", tmp_path / "gone.jsonl", "No such file"):
        list(stream_records(tmp_path / "gone.jsonl"))


def test_a_named_pipe_is_json_lines(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    assert row_file(str(pipe)) == pipe
    writer = threading.Thread(target=lambda: pipe.write_text('{"text": "one"}\n', encoding="utf-8"))
    writer.start()
    assert [row.values for row in stream_records(pipe)] == [{"text": "one"}]
    writer.join()
