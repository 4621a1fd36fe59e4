"""Scores of TRACE's tasks beside exact match and Rouge-L: SARI, similarity of code, the first character (layer L3)."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from difflib import SequenceMatcher

import regex

__all__ = ["code_similarity", "first_character", "sari"]

_TOKEN = regex.compile(r"[\p{L}\p{M}\p{N}]+|[^\p{L}\p{M}\p{N}\s]")
_LONGEST = 4  # words of an n-gram
_LITERAL = re.compile(r"<(?:STR|NUM|CHAR)_LIT:(.*?)>", re.DOTALL)
_BARE = {"<NUM_LIT>": "0", "<STR_LIT>": "", "<CHAR_LIT>": ""}
_Grams = Counter[tuple[str, ...]]


def sari(prediction: str, references: Sequence[str], source: str) -> float:
    """Return how well a text was simplified: what was kept, deleted and added, beside references, in [0, 1].

    The mean over n-grams of one to four words of F1 of what is kept, precision of what is deleted and F1 of what is added;
    where there is nothing to keep, delete or add, that part is 1.

    Args:
        prediction: The simplified text.
        references: Simplifications by people, at least one.
        source: The text that was simplified.

    References:
        Xu et al., Optimizing Statistical Machine Translation for Text Simplification, TACL 2016, section 4.
        Differs: words are runs of letters, marks and digits in any script, in lower case; each other sign is one. TRACE's
        evaluation tokenises as machine translation's 13a does, and averages over rows as here.
    """
    total = 0.0
    for size in range(1, _LONGEST + 1):
        several = [_grams(reference, size) for reference in references]
        together: _Grams = sum(several, Counter())
        said, given = _times(_grams(prediction, size), len(several)), _times(_grams(source, size), len(several))
        total += (_kept(said, given, together) + _deleted(said, given, together) + _added(said, given, together)) / 3
    return total / _LONGEST


def code_similarity(prediction: str, references: Sequence[str]) -> float:
    """Return the similarity of a line of code to the nearest reference, rounded to per cent, in [0, 1].

    Twice the matching characters over all characters, with py150's placeholders of literals written out as the literals, numbers
    without one as 0; 0 for an empty text.

    References:
        TRACE (arXiv:2310.06762), published evaluation of Py150, whose fuzzywuzzy compares with Python's difflib so too.
    """
    said = _with_literals(prediction)
    return max(_ratio(said, _with_literals(reference)) for reference in references)


def first_character(prediction: str, references: Sequence[str]) -> float:
    """Return 1.0 where an answer begins with the character that a reference begins with: the letter of a choice, whatever follows.

    References:
        TRACE (arXiv:2310.06762), published evaluation of ScienceQA, whose answers give their reasons after the letter.
    """
    return float(bool(prediction) and prediction[0] in {reference.strip()[:1] for reference in references})


def _grams(text: str, size: int) -> _Grams:
    words = _TOKEN.findall(text.casefold())
    return Counter(zip(*(words[start:] for start in range(size)), strict=False))


def _times(grams: _Grams, count: int) -> _Grams:
    return Counter({gram: count * number for gram, number in grams.items()})


def _kept(said: _Grams, given: _Grams, wanted: _Grams) -> float:
    kept, right = said & given, wanted & given
    good = kept & wanted
    precision = sum(good[gram] / kept[gram] for gram in kept) / len(kept) if kept else 1.0
    recall = sum(good.values()) / sum(right.values()) if right else 1.0
    return _harmonic(precision, recall)


def _deleted(said: _Grams, given: _Grams, wanted: _Grams) -> float:
    gone = given - said
    good = gone - wanted
    return sum(good[gram] / gone[gram] for gram in gone) / len(gone) if gone else 1.0


def _added(said: _Grams, given: _Grams, wanted: _Grams) -> float:
    new, right = set(said) - set(given), set(wanted) - set(given)
    good = len(new & right)
    return _harmonic(good / len(new) if new else 1.0, good / len(right) if right else 1.0)


def _harmonic(precision: float, recall: float) -> float:
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _with_literals(code: str) -> str:
    for placeholder, literal in _BARE.items():
        code = code.replace(placeholder, literal)
    return _LITERAL.sub(lambda found: found[1], code).strip()


def _ratio(said: str, wanted: str) -> float:
    return round(100 * SequenceMatcher(None, said, wanted).ratio()) / 100 if said and wanted else 0.0
