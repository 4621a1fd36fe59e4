"""Answers graded by a scorer, which is a plug-in (layer L3)."""

from __future__ import annotations

from collections.abc import Sequence

from clora_cli.base import registry
from clora_cli.base.errors import CloraError, blaming
from clora_cli.evaluation.text import Grading

__all__ = ["scored_by"]


def scored_by(text: str) -> Grading:
    """Return the grading of a scorer.

    Args:
        text: Its name, with options after commas.

    Raises:
        CloraError: When it grades, if it fails or returns no number in [0, 1].
    """
    name = text.partition(",")[0]
    plugin, origin = registry.bound("scorers", text), registry.find("scorers", name).origin

    def score(answer: str, references: Sequence[str], prompt: str) -> float:
        with blaming():
            value = plugin.score(answer, prompt, references)
        if not (isinstance(value, (int, float)) and 0 <= value <= 1):
            raise CloraError(
                f"scorer '{name}' of {origin}: score returned {value!r:.40} for one answer; mend it to return a number in [0, 1]",
                code="scorer-out-of-range",
            )
        return float(value)

    return Grading(text, f"100 * mean over rows of {text}: {registry.summary('scorers', name)}", score, graded=True)
