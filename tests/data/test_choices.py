"""Multiple choice: every way in which data sets write choices and the right one ends in one prompt and a letter."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from refusals import refused

from clora_cli.base.errors import DataError
from clora_cli.data import Task, load_task
from clora_cli.data.columns import prompt_of
from clora_cli.data.readers import Record

FOUR = ["red", "blue", "green", "pink"]
PROMPT = "q 0\nA. red\nB. blue\nC. green\nD. pink\nAnswer:"


def read(folder: Path, row: Mapping[str, Any | Callable[[int], Any]], columns: dict[str, str] | None = None) -> Task:
    rows = [{key: cell(i) if callable(cell) else cell for key, cell in row.items()} for i in range(20)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows), encoding="utf-8")
    return load_task("rows.jsonl", columns=columns)


def answers(task: Task) -> dict[str, str]:
    """Each row's number to its letter."""
    rows = (*task.train, *task.dev, *task.test)
    return {row.body.partition("\n")[0].rpartition(" ")[2]: row.references[0] for row in rows}


@pytest.mark.parametrize(
    "row",
    [
        {"question": lambda i: f"q {i}", "choices": FOUR, "answer": lambda i: i % 4},
        {"question": lambda i: f"q {i}", "choices": FOUR, "answer": lambda i: i % 4 + 1},
        {"question": lambda i: f"q {i}", "choices": FOUR, "answer": lambda i: "ABCD"[i % 4]},
        {"question": lambda i: f"q {i}", "options": FOUR, "answer": lambda i: FOUR[i % 4]},
        {"question": lambda i: f"q {i}", "options": json.dumps(FOUR), "answer": lambda i: f"({'abcd'[i % 4]})"},
        {"question": lambda i: f"q {i}", "options": str(FOUR), "answer": lambda i: str(i % 4)},
        {
            "question": lambda i: f"q {i}",
            "choices": {"text": FOUR, "label": list("1234")},
            "answerKey": lambda i: str(i % 4 + 1),
        },
        {
            "question_stem": lambda i: f"q {i}",
            "choices": {"text": FOUR, "label": list("ABCD")},
            "answerKey": lambda i: "ABCD"[i % 4],
        },
        {
            "question": lambda i: f"q {i}",
            "options": dict(zip("ABCD", FOUR, strict=True)),
            "answer_idx": lambda i: "ABCD"[i % 4],
        },
        {"question": lambda i: f"q {i}", **dict(zip("ABCD", FOUR, strict=True)), "answer": lambda i: "ABCD"[i % 4]},
        {
            "question": lambda i: f"q {i}",
            "opa": "red",
            "opb": "blue",
            "opc": "green",
            "opd": "pink",
            "cop": lambda i: i % 4,
        },
        {"ctx": lambda i: f"q {i}", "endings": FOUR, "label": lambda i: str(i % 4)},
    ],
)
def test_choices_of_every_spelling_make_one_prompt_and_a_letter(folder: Path, row: dict[str, Any]) -> None:
    task = read(folder, row)
    assert task.labels == ("A", "B", "C", "D") and task.metric == "exact-match" and task.template == "choice"
    assert PROMPT in {example.prompt for example in (*task.train, *task.dev, *task.test)}
    assert answers(task) == {str(i): "ABCD"[i % 4] for i in range(20)}


def test_choices_that_are_numbers_are_not_taken_for_their_own_numbers(folder: Path) -> None:
    digits = ["4", "2", "1", "0"]
    by_number = read(folder, {"question": lambda i: f"q {i}", "choices": digits, "answer": lambda i: i % 4})
    assert answers(by_number)["1"] == "B"
    by_text = read(folder, {"question": lambda i: f"q {i}", "choices": digits, "answer": lambda i: digits[i % 4]})
    assert answers(by_text)["1"] == "B"


def test_choices_as_pandas_writes_them_to_a_table_are_the_same(folder: Path) -> None:
    import numpy as np
    import pandas as pd

    listed, named = (
        np.array(["it's red", "blue", "green", "pink"]),
        {"text": np.array(FOUR, dtype=object), "label": np.array(list("ABCD"), dtype=object)},
    )
    for choices in (listed, named):
        rows = [{"question": f"q {i}", "choices": choices, "answer": "ABCD"[i % 4]} for i in range(20)]
        pd.DataFrame(rows).to_csv(folder / "rows.csv", index=False)
        task = load_task("rows.csv")
        assert answers(task)["1"] == "B" and "B. blue\nC. green\nD. pink\nAnswer:" in task.train[0].prompt


def test_pairs_of_choices_have_their_context(folder: Path) -> None:
    row = {"premise": lambda i: f"it rained {i}", "question": "effect", "choice1": "wet", "choice2": "dry"}
    task = read(folder, {**row, "label": lambda i: i % 2})
    assert "it rained 0\neffect\nA. wet\nB. dry\nAnswer:" in {e.prompt for e in (*task.train, *task.dev, *task.test)}
    assert "'label' is read as the number of a choice, counted from 0" in task.notes
    task = read(
        folder, {"sentence": lambda i: f"s {i}", "option1": "x", "option2": "y", "answer": lambda i: "12"[i % 2]}
    )
    assert answers(task)["1"] == "B"


def test_columns_of_one_letter_beside_a_labelled_text_are_no_choices(folder: Path) -> None:
    task = read(folder, {"sentence": lambda i: f"s {i}", "label": lambda i: i % 2, "a": 1, "b": 2})
    assert task.template == "text-label" and task.labels == ("0", "1")


def test_rows_whose_choice_is_not_told_are_dropped_and_counted(folder: Path) -> None:
    task = read(
        folder, {"goal": lambda i: f"q {i}", "sol1": "x", "sol2": "y", "label": lambda i: -1 if i % 4 == 3 else i % 2}
    )
    assert "dropped 5 of 20 train rows: empty prompt or answer" in task.notes
    assert set(answers(task).values()) == {"A", "B"}


def test_keys_that_name_no_choice_are_refused(folder: Path) -> None:
    with refused("answer-not-a-choice", "line 1", "'answer'", "--columns key=COLUMN"):
        read(folder, {"question": lambda i: f"q {i}", "choices": FOUR, "answer": "42 apples"})
    with refused("choices-not-a-list", "line 1", "'choices' is a str"):
        read(folder, {"question": lambda i: f"q {i}", "choices": "red or blue", "answer": "A"})


def test_the_prompt_of_choices_is_the_same_without_an_answer() -> None:
    row = {"question": "q 0", "choices": FOUR}
    for values in (row, {**row, "answer": 2}):
        assert prompt_of(Record("f", "line", 1, values)).prompt == PROMPT


def test_a_number_of_hundreds_of_digits_is_no_number_of_a_choice(folder: Path) -> None:
    rows = {"question": lambda i: f"q {i}", "choices": FOUR, "answer": lambda i: "9" * 400 if i == 3 else i % 4}
    with pytest.raises(DataError):
        read(folder, rows)
