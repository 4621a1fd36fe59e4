from __future__ import annotations

from exercises import exercise

from clora_cli.nano.grammar import Draw
from clora_cli.nano.task_set import ORDER, task


def _examples(count):
    draw = Draw("test exercises")
    return [exercise(draw) for _ in range(count)]


def test_exercises_teach_no_bundled_instruction_and_no_bundled_label():
    labels = {label for name in ORDER for label in task(name).labels}
    for pieces in _examples(1000):
        text = "".join(part for part, _ in pieces)
        assert not [name for name in ORDER if task(name).instruction in text]
        assert "Option:" not in text and "Answer:" not in text
        if not text.startswith(("Copy a word.", "Say the word.", "Again: ")):  # labels are met as mere words there
            assert not [part for part, is_answer in pieces if is_answer and part.strip() in labels]


def test_every_example_has_an_answer_that_begins_with_a_space():
    for pieces in _examples(500):
        answers = [part for part, is_answer in pieces if is_answer]
        assert answers
        assert all(part.startswith(" ") and part.strip() for part in answers)


def test_the_same_seed_gives_the_same_text():
    assert _examples(50) == _examples(50)
