from __future__ import annotations

import pytest

from clora_cli.evaluation.text import Grading, is_match, normalise, rouge_l


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


@pytest.mark.parametrize(
    ("said", "reference", "right"),
    [
        ("1", "-1", False),
        ("-1", "1", False),
        ("-1.", "-1", True),
        ("\N{MINUS SIGN}1", "-1", True),
        ("10", "1.0", False),
        ("1.0", "1.0", True),
        ("$1.50", "1.50", True),
        (".5", "5", False),
        ("1,000", "1000", True),
        ("1,5", "15", False),
        ("1/2", "12", False),
        ("10:30", "1030", False),
        ("2-3", "23", False),
        ("1e-5", "1e5", False),
        ("50%", "50", False),
        ("50 %", "50%", True),
        ("18+", "18", False),
        ("C", "C++", False),
        ("C#", "C", False),
        ("c++.", "C++", True),
        ("x+y", "xy", False),
        ("COVID 19", "COVID-19", False),
        ("covid19", "COVID-19", True),
        ("am", "a.m.", True),
        ("**Paris**", "paris", True),
        ("- Paris.", "Paris", True),
        (":)", ":(", False),
        (":)", ":)", True),
        (">", "<", False),
        ("+", "+", True),
        ("a\nb and more", "a b", False),
        ("a\nb\nand more", "a\nb", True),
    ],
)
def test_numbers_and_names_keep_what_tells_them_apart(said, reference, right):
    assert is_match(said, [reference]) is right


@pytest.mark.parametrize(
    ("said", "reference", "right"),
    [
        ("\uff11\uff10", "10", True),  # full width
        ("\uff21\uff22\uff23", "abc", True),
        ("\uff76\uff9e", "\u30ac", True),  # half-width katakana and its mark
        ("cafe\u0301", "CAF\u00c9", True),
        ("stra\u00dfe", "STRASSE", True),
        ("\u0395\u03bb\u03bb\u03ac\u03c2", "\u0395\u039b\u039b\u0386\u03a3", True),  # two lower-case sigmas
        ("\u5317\u4eac\u3002", "\u5317\u4eac", True),
        ("\u200f\u0646\u0639\u0645", "\u0646\u0639\u0645\u060c", True),
        ("\u0915\u093c", "\u0958", True),  # a letter and its dot, as one or as two
        ("\u5317\u4eac", "\u5357\u4eac", False),
        ("\u300c\u5317\u4eac\u300d", "\u5317\u4eac", True),  # corner brackets quote
        ("\u201cs\u00ed\u201d", "s\u00ed", True),
        ("it\u2019s", "it's", True),
        ("5\u201310", "5-10", True),
        ("\u2764\ufe0f", "\u2764", True),  # a heart in colour, and its outline
        ("5\u201310", "510", False),
    ],
)
def test_other_scripts_are_compared_by_what_is_read(said, reference, right):
    assert is_match(said, [reference]) is right


@pytest.mark.parametrize(
    ("labels", "alike"),
    [
        (("1", "-1", "0"), ("1.", " -1 ")),
        (("C", "C++", "C#", "Objective-C"), ("c", "C++.")),
        (("A", "A-", "A+"), ("a", "A-")),
        (("US", "us"), ("US", "us")),
        (("a.m.", "am"), ("a.m.", "am")),
        (("+", "-", "?"), ("+", "-")),
        (("10", "1.0", "1,0"), ("10", "1.0")),
        (("\u662f", "\u5426"), ("\u662f\u3002", "\u5426")),
    ],
)
def test_no_label_is_taken_for_another(labels, alike):
    for label in labels:
        assert [other for other in labels if is_match(other, [label], labels)] == [label]
    for said, label in zip(alike, labels, strict=False):
        assert is_match(said, [label], labels)
    assert Grading.matching(labels).normaliser == "unicode/1"


def test_references_that_only_punctuation_tells_apart_are_not_taken_for_each_other():
    grading = Grading.matching(references=["a.m.", "am", "Paris.", "paris"])
    assert [grading.grade("am", [one]) for one in ("am", "a.m.")] == [1, 0]
    assert grading.grade("PARIS", ["Paris."]) == 1  # a full stop and case are no difference
    assert grading.grade("am", ["am", "a.m."]) == grading.grade("a.m.", ["am", "a.m."]) == 1


def test_english_labels_are_compared_as_they_always_were():
    labels = ("Society & Culture", "very negative", "positive")
    grading = Grading.matching(labels)
    assert grading.normaliser == "english/1"
    for said in ("society culture", "Society & Culture.", "VERY-NEGATIVE", "very negative\nor not", "positive1", ""):
        for label in labels:
            first = said.strip().split("\n", 1)[0]
            assert grading.grade(said, [label]) == (normalise(first) == normalise(label) and normalise(first) != "")
    assert grading.grade("positive", ["Positive"]) == 1  # a reference may be spelled otherwise than its label


TEXTS = [
    "\u4eca\u5929\u5929\u6c14\u5f88\u597d",
    "\u6771\u4eac\u306f\u6674\u308c\u3067\u3059\u30fc",
    "\u0e27\u0e31\u0e19\u0e19\u0e35\u0e49\u0e2d\u0e32\u0e01\u0e32\u0e28\u0e14\u0e35",
    "\u0627\u0644\u0637\u0642\u0633 \u062c\u0645\u064a\u0644",
    "\u0906\u091c \u092e\u094c\u0938\u092e \u0905\u091a\u094d\u091b\u093e \u0939\u0948",
    "\uc624\ub298 \ub0a0\uc528\uac00 \uc88b\ub2e4",
    "\u0441\u0435\u0433\u043e\u0434\u043d\u044f \u0445\u043e\u0440\u043e\u0448\u043e",
    "\u17a2\u17b6\u1780\u17b6\u179f\u1792\u17b6\u178f\u17bb",
    "\u00e0",
    "\U0001f44d",
]


@pytest.mark.parametrize("text", TEXTS)
def test_equal_answers_score_1_in_every_script(text):
    assert rouge_l(text, [text]) == 1
    assert rouge_l("something else", [text]) == 0
    assert all(rouge_l(other, [text]) < 0.3 for other in TEXTS if other != text)


def test_scripts_without_spaces_are_scored_by_characters():
    # 5 of 6 characters in common
    assert rouge_l("\u4eca\u5929\u5929\u6c14\u4e0d\u597d", [TEXTS[0]]) == pytest.approx(5 / 6)
    # a vowel sign belongs to its letter: three of four words in common
    assert rouge_l("\u0906\u091c \u092e\u094c\u0938\u092e \u092c\u0941\u0930\u093e \u0939\u0948", [TEXTS[4]]) == 0.75
    assert rouge_l("GPT-4\u6a21\u578b running", ["gpt 4 \u6a21\u578b runs"]) == 1


def test_letters_with_accents_are_letters():
    assert rouge_l("f\u00fcr", ["f\u00e4r"]) == 0
    assert rouge_l("Gr\u00f6\u00dfe", ["GRO\u0308SSE"]) == 1
    assert rouge_l("la p\u00eache", ["la p\u00e9ch\u00e9"]) == 0.5


def test_english_is_scored_as_rouge_score_scores_it():
    from rouge_score.rouge_scorer import RougeScorer

    theirs = RougeScorer(["rougeL"], use_stemmer=True)
    references = ["The cats' 3.5 boats were sinking, weren't they?", "A caf\u00e9 in Paris: it closed at 10p.m. (US)."]
    references += ["He visited the harbour twice and spoke with nobody about it, which surprised the whole town."] * 3
    grading = Grading.words(references)
    assert grading.normaliser == "english-words/1"
    for said in (*references, "a cat's boat sank at 3,5 in the caf\u00e9", "cafe closing", "...", ""):
        for reference in references[:3]:
            assert grading.grade(said, [reference]) == theirs.score(reference, said)["rougeL"].fmeasure


def test_marks_of_other_scripts_split_words_as_their_ascii_likes_do():
    for said, reference in (
        ("it\u2019s 5\u201310 caf\u00e9", "it's 5-10 caf\u00e9"),
        ("\u300ana\u300b caf\u00e9", "na caf\u00e9"),
    ):
        assert rouge_l(said, [reference]) == 1
