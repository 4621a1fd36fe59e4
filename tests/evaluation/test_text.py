from __future__ import annotations

import pytest

from clora_cli.evaluation.text import is_match, normalise, rouge_l


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("  Very\tBad. ", "very bad"),
        ("U.S.A.", "usa"),
        ("don't", "dont"),
        ("A\n\nB", "a b"),
        ("...", ""),
        ("É « oui »", "é « oui »"),  # only ASCII punctuation goes
    ],
)
def test_normalise(text, plain):
    assert normalise(text) == plain


@pytest.mark.parametrize(
    ("said", "references", "right"),
    [
        ("Great!", ["great"], True),
        ("great and more", ["great"], False),
        ("great\nbecause it was", ["great"], True),
        ("\n\n great", ["great"], True),
        ("b", ["a", "b"], True),
        ("", ["great"], False),
        ("", ["..."], False),
        ("!", ["?"], False),
        ("\n", [""], False),
        ("bad", ["very bad"], False),
    ],
)
def test_is_match(said, references, right):
    assert is_match(said, references) is right


def test_rouge_l_by_hand():
    # longest common subsequence "the cat sat" of 3; precision 3/4, recall 3/6
    assert rouge_l("the cat quietly sat", ["the cat sat on the mat"]) == pytest.approx(2 * 0.75 * 0.5 / 1.25)


def test_rouge_l_takes_the_best_reference_and_stems():
    assert rouge_l("two boats", ["nothing at all", "two boat"]) == 1
    assert rouge_l("", ["two boats"]) == 0
    assert rouge_l("two boats", ["..."]) == 0
