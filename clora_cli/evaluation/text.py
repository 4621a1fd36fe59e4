"""Compare predicted texts with references (layer L3)."""

from __future__ import annotations

import string
from collections.abc import Sequence
from functools import cache
from typing import Any

__all__ = ["FORMULAS", "is_match", "normalise", "rouge_l"]

FORMULAS = {
    "exact-match": "100 * correct / total; correct: the prediction's first line equals a reference "
    "after lower-casing, deleting ASCII punctuation and collapsing white space",
    "rouge-l": "100 * mean over rows of the best ROUGE-L F1 over the row's references, Porter-stemmed",
    "label-rank": "100 * correct / total; correct: of the task's labels, the reference has the highest "
    "log-likelihood summed over its tokens and the end of sequence",
}
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalise(text: str) -> str:
    """Lower-case, delete ASCII punctuation, collapse white space."""
    return " ".join(text.lower().translate(_PUNCTUATION).split())


def is_match(prediction: str, references: Sequence[str]) -> bool:
    """Tell whether the prediction's first line equals a reference after normalisation.

    An empty prediction matches nothing: a reference that is punctuation alone must not be won by silence.
    """
    said = normalise(prediction.strip().split("\n", 1)[0])
    return bool(said) and said in {normalise(reference) for reference in references}


def rouge_l(prediction: str, references: Sequence[str]) -> float:
    """Return the best ROUGE-L F1 over the references, in [0, 1]."""
    return max(float(_scorer().score(reference, prediction)["rougeL"].fmeasure) for reference in references)


@cache
def _scorer() -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rougeL"], use_stemmer=True)
