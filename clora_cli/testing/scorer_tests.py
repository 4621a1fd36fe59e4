"""What every scorer must do (layer L3)."""

from __future__ import annotations

from typing import ClassVar

from clora_cli.scorers import Scorer
from clora_cli.testing.requirements import ClassTests, require

__all__ = ["ScorerTests"]

_ANSWERS = ("", "yes", '{"a": 1}', "Two lines,\nand a word: naïve.", "的" * 500)
_REFERENCES = ((), ("yes",), ("yes", '{"a": 1}'))


class ScorerTests(ClassTests):
    """Tests for each scorer."""

    kind: ClassVar[str] = "scorers"

    def test_every_answer_scores_between_0_and_1_with_references_or_without(self, plugin: Scorer) -> None:
        for answer in _ANSWERS:
            for references in _REFERENCES:
                value = plugin.score(answer, "Is it so?", references)
                sound = isinstance(value, float) and 0 <= value <= 1
                require(
                    sound, f"the score of {answer[:20]!r} is {value!r}: give a float in [0, 1], for an empty answer too"
                )

    def test_the_same_answer_scores_the_same_at_every_call(self, plugin: Scorer) -> None:
        first = [plugin.score(answer, "Is it so?", ()) for answer in _ANSWERS]
        again = [plugin.score(answer, "Is it so?", ()) for answer in reversed(_ANSWERS)]
        require(first == again[::-1], "a score is to depend on the answer, the prompt and the references alone")
