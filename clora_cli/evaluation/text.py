"""Compare predicted texts with references (layer L3).

Two ways, each named with a version in every score:

``english/1`` and ``english-words/1``
    What is usual for English: exact match after lower-casing and deleting ASCII punctuation; Rouge-L on the words of the
    library ``rouge_score``, runs of ASCII letters and digits, Porter-stemmed. For label sets that it keeps apart, and for
    references in ASCII letters but for loan words.

``unicode/1`` and ``unicode-words/1``
    For everything else. Exact match keeps what makes numbers and names differ (``-1``, ``1.0``, ``50%``, ``C++``), folds
    case and width, composes marks (NFC), and compares exactly where labels would otherwise collide. Rouge-L takes words by
    Unicode's letters, marks and digits (the library ``regex``): every character of a script that is written without spaces
    (Han, Hiragana, Katakana, Thai, Lao, Khmer, Burmese, Tibetan and others) is a word; in all other scripts (Latin with
    accents, Cyrillic, Greek, Arabic, Hebrew, Devanagari, Hangul and so on) a run of letters is. ASCII words are stemmed as
    in English.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import regex

from clora_cli.evaluation.trace_scores import code_similarity, first_character, sari

__all__ = ["FORMULAS", "Grading", "is_match", "normalise", "rouge_l"]

FORMULAS = {
    "english/1": "100 * correct / total; correct: the prediction's first line equals a reference "
    "after lower-casing, deleting ASCII punctuation and collapsing white space",
    "unicode/1": "100 * correct / total; correct: the prediction's first lines, as many as the reference has, equal it after "
    "folding case and width and deleting punctuation that no number and no name needs; exactly where labels would collide",
    "english-words/1": "100 * mean over rows of the best ROUGE-L F1 over the row's references, Porter-stemmed",
    "unicode-words/1": "100 * mean over rows of the best ROUGE-L F1 over the row's references, on Unicode's words, and on "
    "characters in scripts without spaces; ASCII words Porter-stemmed",
    "sari/1": "100 * mean over rows of SARI (kept, deleted and added n-grams of one to four words) of the answer, with the prompt as the "
    "text to simplify",
    "code/1": "100 * mean over rows of 2 * matching characters / all characters, placeholders of literals written out, rounded to per cent",
    "first-character/1": "100 * correct / total; correct: the answer begins with the character that a reference begins with",
    "label-rank": "100 * correct / total; correct: of the task's labels, the reference has the highest "
    "log-likelihood summed over its tokens and the end of sequence",
}
_PUNCTUATION = str.maketrans("", "", string.punctuation)
# What stays of ASCII punctuation: a number's sign, point, separators, exponent and percent; operators; the end of 'C++'.
_MEANT = (
    r"(?<![\w)])-(?=[^\w\s]?\.?\d)|(?<![\w.])\.(?=\d)|(?<=\d)[.,:/^*<>=~+-](?=-?\.?\d)|(?<=\de)-(?=\d)"
    r"|(?<=\d)\s*%|(?<=\w)[+#]+(?!\w)|(?<=\w)[+=<>^](?=\w)"
)
_DROPPED = re.compile(rf"(?P<meant>{_MEANT})|[{re.escape(string.punctuation)}]")
_THOUSANDS = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?![\d,])")
# Ends of sentences and pauses in other scripts, marks of direction and of width 0 that no eye sees, and what tells an emoji's colour from
# its outline; quotation marks of other scripts, and dashes that are written for a minus, become ASCII's.
_OTHER_MARKS: dict[int, str | None] = {
    **dict.fromkeys(map(ord, "。、،؛؟।॥။၊។៕។\u06d4\u0589\u200b\u200e\u200f\ufeff\ufe0e\ufe0f")),
    **dict.fromkeys(map(ord, "「」『』《》〈〉【】\u201c\u201d\u201e\u201f\xab\xbb\u2039\u203a"), '"'),
    **dict.fromkeys(map(ord, "\u2018\u2019\u201a\u201b"), "'"),
    **dict.fromkeys(map(ord, "\u2010\u2011\u2012\u2013\u2212"), "-"),
}
_SPACELESS = (
    r"[[\p{Han}\p{Hiragana}\p{Katakana}\p{Bopomofo}\p{Yi}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tibetan}\p{Javanese}"
    r"\p{Balinese}\p{Tai_Le}\p{New_Tai_Lue}\p{Tai_Tham}\p{Tai_Viet}ー]&&[\p{L}\p{N}]]"
)
_WORD = regex.compile(
    rf"{_SPACELESS}\p{{M}}*|[[\p{{L}}\p{{Nl}}\p{{Nd}}]--{_SPACELESS}][[\p{{L}}\p{{M}}\p{{Nl}}\p{{Nd}}\u200c\u200d]--{_SPACELESS}]*",
    regex.V1,
)
_Grade = Callable[[str, Sequence[str], str], float]
_LOAN_WORDS = 0.005  # of the letters of English references lie beyond ASCII, at most: names, and words such as café
_Form = Callable[[str], str]


def normalise(text: str) -> str:
    """Lower-case, delete ASCII punctuation, collapse white space: ``english/1``."""
    return " ".join(text.lower().translate(_PUNCTUATION).split())


@dataclass(frozen=True, eq=False)
class Grading:
    """How a task's answers are graded, which its labels and references decide, never the answers.

    Attributes:
        normaliser: Its name and version.
        formula: What a score is, in words.
        score: Prediction, references and prompt to a share in [0, 1].
        graded: Whether a row may score between 0 and 1.
    """

    normaliser: str
    formula: str
    score: _Grade
    graded: bool = False

    def grade(self, prediction: str, references: Sequence[str], prompt: str = "") -> float:
        """Return the share that a prediction scores, in [0, 1]."""
        return self.score(prediction, references, prompt)

    @classmethod
    def of(cls, metric: str, labels: Collection[str], references: Iterable[str]) -> Grading:
        """Return the grading of a metric, given the task's labels and all of its references."""
        if metric == "rouge-l":
            return cls.words(references)
        return _BY_METRIC.get(metric) or cls.matching(labels, references)

    @classmethod
    def matching(cls, labels: Collection[str] = (), references: Iterable[str] = ()) -> Grading:
        """Return exact match.

        Args:
            labels: The closed set of answers, no two of which are taken for each other; empty if answers are open-ended.
            references: All that an open-ended task has; no two are taken for each other but for case and a full stop.
        """
        if _is_plain(labels):
            name, forms = "english/1", (normalise,)
        else:
            name, forms = "unicode/1", (_meaning, _trimmed, _folded, *((_exact, str.strip) if labels else ()))
        known = _Known(labels or references, forms, str if labels else _trimmed)
        return cls(name, FORMULAS[name], lambda answer, accepted, _: float(known.is_match(answer, accepted)))

    @classmethod
    def words(cls, references: Iterable[str]) -> Grading:
        """Return Rouge-L; ``references`` are all that the task has."""
        english = _is_english(references)
        name = "english-words/1" if english else "unicode-words/1"
        score: _Grade = lambda answer, accepted, _: max(_rouge(answer, one, english) for one in accepted)  # noqa: E731
        return cls(name, FORMULAS[name], score, graded=True)


_BY_METRIC = {
    "sari": Grading("sari/1", FORMULAS["sari/1"], sari, graded=True),
    "code-similarity": Grading(
        "code/1", FORMULAS["code/1"], lambda said, known, _: code_similarity(said, known), graded=True
    ),
    "first-character": Grading(
        "first-character/1", FORMULAS["first-character/1"], lambda said, known, _: first_character(said, known)
    ),
}


def is_match(prediction: str, references: Sequence[str], labels: Collection[str] = ()) -> bool:
    """Tell whether a prediction's first line equals a reference.

    An empty prediction matches nothing, not even a reference of punctuation alone.
    """
    return bool(Grading.matching(labels, references).grade(prediction, references))


def rouge_l(prediction: str, references: Sequence[str]) -> float:
    """Return the best ROUGE-L F1 over the references, in [0, 1]."""
    return Grading.words(references).grade(prediction, references)


class _Known:
    """Compares texts in the first of several ever stricter forms that distinguishes a reference from the other known texts."""

    def __init__(self, texts: Iterable[str], forms: Sequence[_Form], identity: _Form) -> None:
        self._forms, self._identity = forms, identity
        self._meant: list[dict[str, set[str]]] = [defaultdict(set) for _ in forms]
        for text in set(texts):
            for form, meant in zip(forms, self._meant, strict=True):
                meant[form(text)].add(identity(text))

    def is_match(self, prediction: str, references: Sequence[str]) -> bool:
        """Tell whether a prediction's first lines equal a reference; an empty one never does."""
        own, lines = {self._identity(reference) for reference in references}, prediction.strip().split("\n")
        for reference in references:
            form = self._form(reference, own)
            said = form("\n".join(lines[: 1 + reference.strip().count("\n")]))
            if said and said == form(reference):
                return True
        return False

    def _form(self, reference: str, own: set[str]) -> _Form:
        for form, meant in zip(self._forms, self._meant, strict=True):
            shape = form(reference)
            known = meant.get(shape, set())
            # A reference whose exact spelling is unknown counts as the known text that has its form.
            if shape and len(known - own) <= (0 if known & own else 1):
                return form
        return self._forms[-1]


def _is_plain(labels: Collection[str]) -> bool:
    """Whether English normalisation keeps labels apart and drops nothing that a number or a name needs."""
    needs = re.compile(r"[^\x00-\x7f]|[\d+#%\n]")
    forms = {normalise(label) for label in labels}
    return bool(labels) and "" not in forms and len(forms) == len(set(labels)) and not any(map(needs.search, labels))


def _exact(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", text).split())


def _folded(text: str) -> str:
    """Fold case and width, compose marks, collapse white space."""
    if not text.isascii():
        text = "".join(map(_narrow, text)).translate(_OTHER_MARKS)
    return _exact(unicodedata.normalize("NFC", text).casefold())


def _trimmed(text: str) -> str:
    """Fold, and leave out the punctuation around a text that marks a sentence, a quotation or emphasis."""
    return _folded(text).strip(" .,;:!?'\"()[]{}`*_")


def _narrow(character: str) -> str:
    """Return the usual form of a full-width or half-width character."""
    kind, _, code = unicodedata.decomposition(character).partition(" ")
    return chr(int(code, 16)) if kind in {"<wide>", "<narrow>"} else character


def _meaning(text: str) -> str:
    """Fold, and delete punctuation that no number and no name needs: ``unicode/1``."""
    folded = _THOUSANDS.sub(lambda found: found[0].replace(",", ""), _folded(text))
    return " ".join(_DROPPED.sub(lambda found: (found["meant"] or "").strip(), folded).split())


def _is_english(references: Iterable[str]) -> bool:
    letters = beyond = 0
    for reference in references:
        found = sum(map(str.isalpha, reference))
        letters += found
        beyond += 0 if reference.isascii() else sum(one.isalpha() and not one.isascii() for one in reference)
    return beyond <= _LOAN_WORDS * letters


def _rouge(prediction: str, reference: str, english: bool) -> float:
    said = _folded(prediction)
    if said and said == _folded(reference):
        return 1.0  # also where neither has a word: signs, emoji
    return float(_scorer(english).score(reference, prediction)["rougeL"].fmeasure)


class _UnicodeWords:
    """A tokenizer as ``rouge_score`` takes it; its own stems ASCII words."""

    def __init__(self, ascii_words: Any) -> None:
        self._ascii_words = ascii_words

    def tokenize(self, text: str) -> list[str]:
        words = _WORD.findall(_folded(text))
        return [one for word in words for one in (self._ascii_words.tokenize(word) if word.isascii() else [word])]


@cache
def _scorer(english: bool) -> Any:
    from rouge_score.rouge_scorer import RougeScorer
    from rouge_score.tokenizers import DefaultTokenizer

    usual = DefaultTokenizer(use_stemmer=True)
    return RougeScorer(["rougeL"], tokenizer=usual if english else _UnicodeWords(usual))
