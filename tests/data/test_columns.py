"""What columns become, what is said when they are not recognised, and the turns of conversations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from refusals import refused

from clora_cli.data import Example, Task, load_task

ASK = {"role": "user", "content": "why {i}"}
TELL = {"role": "assistant", "content": "because {i}"}


def filled(value: Any, i: int) -> Any:
    if isinstance(value, dict):
        return {key: filled(item, i) for key, item in value.items()}
    if isinstance(value, list):
        return [filled(item, i) for item in value]
    return value.replace("{i}", str(i)) if isinstance(value, str) else value


def task_of(folder: Path, row: dict[str, Any], columns: dict[str, str] | None = None, **options: Any) -> Task:
    lines = (json.dumps(filled(row, i)) + "\n" for i in range(20))
    (folder / "rows.jsonl").write_text("".join(lines), encoding="utf-8")
    return load_task("rows.jsonl", columns=columns, **options)


def first(folder: Path, row: dict[str, Any], columns: dict[str, str] | None = None) -> Example:
    """The example of row 0, in whatever split it landed."""
    task = task_of(folder, row, columns)
    return next(e for e in (*task.train, *task.dev, *task.test) if "0" in e.prompt and "10" not in e.prompt)


@pytest.mark.parametrize("answer", ["completion", "response", "answer"])
def test_prompt_and_completion_are_kept_to_the_letter(folder: Path, answer: str) -> None:
    example = first(folder, {"prompt": " Q {i}\nA: ", answer: " yes\n"})
    assert example == Example("", " Q 0\nA: ", "", (" yes\n",))
    assert task_of(folder, {"prompt": "{i}", answer: "x"}).metric == "rouge-l"


def test_alpaca_with_and_without_input(folder: Path) -> None:
    row = {"instruction": "Add one.", "input": "{i}", "output": " one "}
    assert first(folder, row) == Example("Add one.\n", "0", "\nResponse:", ("one",))
    row = {"instruction": "Say {i}.", "input": "", "output": "one"}
    assert first(folder, row) == Example("", "Say 0.", "\nResponse:", ("one",))


def test_dolly_columns_are_alpaca(folder: Path) -> None:
    row = {"instruction": "Add.", "context": "{i}", "response": "one", "category": "x"}
    assert first(folder, row).prompt == "Add.\n0\nResponse:"


def test_text_and_label(folder: Path) -> None:
    task = task_of(folder, {"text": "text {i} ", "label": 3})
    assert task.labels == ("3",) and task.metric == "exact-match" and task.template == "text-label"
    assert task.train[0].prompt.startswith("text ") and task.train[0].prompt.endswith("\nAnswer:")


def test_input_and_output_with_several_references(folder: Path) -> None:
    assert first(folder, {"input": "q {i}", "output": ["a", "", "b", "a"]}).references == ("a", "b")


def test_names_are_matched_without_regard_to_case(folder: Path) -> None:
    assert first(folder, {"Prompt": "q {i}", "Completion": "a"}).body == "q 0"


def test_columns_named_by_role(folder: Path) -> None:
    row = {"question": "q {i}", "reply": "a", "text": "no", "label": "no"}
    assert first(folder, row, {"prompt": "question", "completion": "reply"}) == Example("", "q 0", "", ("a",))
    row = {"review": "q {i}", "label": "a"}
    assert task_of(folder, row, {"text": "review"}).labels == ("a",)


def test_named_columns_that_are_not_there(folder: Path) -> None:
    with refused("column-missing", "'query'", "prompt", "question, reply"):
        task_of(folder, {"question": "q {i}", "reply": "a"}, {"prompt": "query", "completion": "reply"})
    with refused("unknown-name", "'promt'", "'prompt'"):
        task_of(folder, {"question": "q {i}"}, {"promt": "question"})


def test_columns_that_are_not_recognised_are_listed(folder: Path) -> None:
    with refused("columns-not-recognised", "id, review, stars", "prompt + completion", "--columns"):
        task_of(folder, {"id": "{i}", "review": "x", "stars": 3})
    with refused("columns-not-recognised", "text"):
        task_of(folder, {"text": "only text {i}"})


def test_a_row_without_its_column_is_named(folder: Path) -> None:
    (folder / "a.jsonl").write_text('{"prompt": "a", "completion": "b"}\n{"prompt": "c"}\n', encoding="utf-8")
    with refused("row-field-missing", "a.jsonl, line 2", "'completion'", "prompt"):
        load_task("a.jsonl")


def test_cells_that_are_no_text_are_named(folder: Path) -> None:
    with refused("value-not-text", "line 1", "'prompt' is a dict"):
        task_of(folder, {"prompt": {"a": "{i}"}, "completion": "b"})


def test_messages(folder: Path) -> None:
    row = {"messages": [{"role": "system", "content": "be brief"}, ASK, TELL, ASK, TELL, ASK]}
    example = first(folder, row)
    assert example.turns == (
        ("system", "be brief"), ("user", "why 0"), ("assistant", "because 0"), ("user", "why 0")
    )  # fmt: skip
    assert example.references == ("because 0",)
    assert example.head == "be brief\n\n"
    assert example.body == "User: why 0\nAssistant: because 0\nUser: why 0"
    assert example.cue == "\nAssistant:"
    assert task_of(folder, row).template == "chat"


def test_sharegpt_with_its_system_column(folder: Path) -> None:
    turns = [{"from": "human", "value": "why {i}"}, {"from": "gpt", "value": "because"}]
    example = first(folder, {"conversations": turns, "system": "be brief"})
    assert example.turns == (("system", "be brief"), ("user", "why 0")) and example.references == ("because",)


def test_content_in_parts(folder: Path) -> None:
    ask = {"role": "user", "content": [{"type": "text", "text": "why "}, {"type": "text", "text": "{i}"}]}
    assert first(folder, {"messages": [ask, TELL]}).turns == (("user", "why 0"),)
    picture = {"role": "user", "content": [{"type": "image", "url": "x"}]}
    with refused("content-not-text", "line 1", "'messages'", "'image'"):
        task_of(folder, {"messages": [picture, TELL]})


def test_prompt_and_completion_of_turns_are_chat(folder: Path) -> None:
    task = task_of(folder, {"prompt": [ASK], "completion": [TELL]})
    assert task.template == "chat" and task.train[0].turns[0][0] == "user"
    assert task.train[0].references[0].startswith("because")


@pytest.mark.parametrize(("turns", "code", "named"), [
    ("text", "turns-not-a-list", "str"),
    (["text"], "turn-not-an-object", "str"),
    ([{"role": "narrator", "content": "x"}], "turn-role-unknown", "the role 'narrator'"),
    ([{"content": "x"}], "turn-role-unknown", "the role ''"),
])  # fmt: skip
def test_conversations_that_are_malformed(folder: Path, turns: Any, code: str, named: str) -> None:
    with refused(code, "line 1", "'messages'", named):
        task_of(folder, {"messages": turns})


def test_conversations_without_an_answer_are_dropped_and_counted(folder: Path) -> None:
    rows = [{"messages": [filled(ASK, i), filled(TELL, i)]} for i in range(10)]
    rows += [{"messages": [ASK]}, {"messages": [TELL]}, {"messages": []}]
    (folder / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    assert "dropped 3 of 13 train rows: empty prompt or answer" in load_task("a.jsonl").notes


def test_too_many_labels_are_open_answers(folder: Path) -> None:
    rows = "".join(json.dumps({"text": f"t {i}", "label": f"l {i}"}) + "\n" for i in range(300))
    (folder / "a.jsonl").write_text(rows, encoding="utf-8")
    task = load_task("a.jsonl")
    assert task.labels == () and "300 distinct labels: answers are taken as open-ended" in task.notes


@pytest.mark.parametrize(
    ("asked", "answered", "template"),
    [
        ("text", "labels", "text-label"),
        ("review", "sentiment", "text-label"),
        ("text", "target", "text-label"),
        ("source", "target", "plain"),
        ("inputs", "targets", "plain"),
        ("article", "highlights", "plain"),
        ("prompt", "output", "plain"),
        ("query", "response", "plain"),
        ("question", "response", "question-answer"),
        ("instruction", "completion", "alpaca"),
    ],
)
def test_names_that_may_mean_several_things_are_read_with_a_note(
    folder: Path, asked: str, answered: str, template: str
) -> None:
    rows = [{asked: f"q {i}", answered: "ab"[i % 2]} for i in range(12)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = load_task("rows.jsonl")
    assert task.template == template and {row.references[0] for row in task.train} == {"a", "b"}
    assert any(f"{answered} as " in note or f"{asked} as " in note for note in task.notes)


def test_what_the_message_on_columns_says_works_as_it_is(folder: Path) -> None:
    (folder / "rows.csv").write_text("a,b c\n" + "".join(f"{i},x\n" for i in range(6)))
    with refused("columns-not-recognised", "--columns text=a --columns 'label=b c'"):
        load_task("rows.csv")
    assert load_task("rows.csv", columns={"text": "a", "label": "b c"}).labels == ("x",)


def test_standard_input_is_no_task(folder: Path) -> None:
    with refused("data-from-stdin", "--data -"):
        load_task("-")
