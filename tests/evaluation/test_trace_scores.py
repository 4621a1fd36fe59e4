"""Scores of TRACE's tasks, against published examples and by hand."""

from __future__ import annotations

import pytest

from clora_cli.evaluation.text import Grading
from clora_cli.evaluation.trace_scores import code_similarity, first_character, sari

SOURCE = "About 95 species are currently accepted."
REFERENCES = [
    "About 95 species are currently known.",
    "About 95 species are now accepted.",
    "95 species are now accepted.",
]


def test_sari_is_that_of_the_library_evaluate_on_its_documented_example():
    assert 100 * sari("About 95 you now get in.", REFERENCES, SOURCE) == pytest.approx(26.953601953601954)


def test_sari_by_hand():
    assert sari("a b", ["a b"], "a b") == 1  # nothing to delete or add, and all is kept
    # One word: kept a of a, b: precision 1, recall 1 of {a}; deleted b: right; added c: right.
    assert sari("a c", ["a c"], "a b") == 1
    # Nothing said: of words, none is kept where none was to be (1 by recall and precision), all are rightly deleted, x is missing.
    one = (1 + 1 + 0) / 3
    two = (1 + 1 + 1) / 3  # of pairs there is one to delete and none to add
    longer = 1  # and of longer n-grams none at all
    assert sari("", ["x"], "a b") == pytest.approx((one + two + 2 * longer) / 4)
    assert sari("Ein Satz", ["ein satz"], "EIN SATZ") == 1


def test_code_is_compared_with_its_literals():
    assert code_similarity("x = <NUM_LIT:1> + <STR_LIT:a>", ["x = 1 + a"]) == 1
    assert code_similarity("f(<NUM_LIT>)<STR_LIT>", ["f(0)"]) == 1
    assert code_similarity("abcd", ["bcde"]) == 0.75  # 2 * 3 / 8
    assert code_similarity("abc", ["abd", "xyz"]) == 0.67  # 2 * 2 / 6, rounded to per cent
    assert code_similarity("", ["a"]) == 0


def test_the_first_character_decides_whatever_follows():
    assert first_character("B because", ["B\nThe reason"]) == 1
    assert first_character("A", ["B\nThe reason"]) == first_character("", ["B"]) == 0


@pytest.mark.parametrize(
    ("metric", "name", "graded"),
    [
        ("sari", "sari/1", True),
        ("code-similarity", "code/1", True),
        ("first-character", "first-character/1", False),
        ("rouge-l", "english-words/1", True),
        ("exact-match", "english/1", False),
    ],
)
def test_every_metric_has_a_grading_with_a_name_and_a_version(metric, name, graded):
    grading = Grading.of(metric, ("yes", "no"), ["yes", "no"])
    assert (grading.normaliser, grading.graded) == (name, graded)
    assert grading.grade("yes", ["yes"], "yes") == 1
