"""Scores of single answers that need no reference (layer L2): one file each.

A scorer is a frozen dataclass whose fields are its options. ``clora eval --scorer NAME`` takes its score instead of the tasks' own,
and then scores rows of prompts alone too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Scorer"]


@dataclass(frozen=True, kw_only=True)
class Scorer:
    """Base of all scorers."""

    def score(self, answer: str, prompt: str, references: Sequence[str]) -> float:
        """Return the score of one answer, in [0, 1]; higher is better.

        Args:
            answer: What was generated, without special tokens and outer white space; may be empty.
            prompt: What it answers, as text.
            references: The row's right answers; none for a row of a prompt alone.
        """
        raise NotImplementedError
