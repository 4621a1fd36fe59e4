"""What methods may ask of a run about its rows as texts and as hidden states, and of a model that writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from torch import Tensor

from clora_cli.algebra.lora import Factor
from clora_cli.model.drawing import Draw

__all__ = ["States", "Text", "Texts", "Writer"]


class Text(NamedTuple):
    """A training row as texts: its task's name, what it asks, cut as training cuts it, and the right answer."""

    task: str
    question: str
    answer: str


class Writer(Protocol):
    """The model before a task is learned, or a whole package's, that makes rows of one earlier task."""

    def written(self, beginning: str, draw: Draw, *, count: int, most: int) -> Sequence[str]:
        """Return texts that the model writes after a beginning, each drawn by a seed of its own.

        Args:
            beginning: The text that they go on from.
            draw: How tokens are chosen; its seed is not used.
            count: How many.
            most: Tokens of each at most.
        """

    def answers(self, questions: Sequence[str]) -> Sequence[str]:
        """Return the model's greedy answer to each question; empty where it gives none."""


class Texts(Protocol):
    """Services of a run about texts."""

    @property
    def texts(self) -> Sequence[Text]:
        """All training rows: the task's own, then those of the memory."""

    def lengths(self, texts: Sequence[str]) -> Sequence[int]:
        """Return each text's number of tokens."""

    def text_losses(self, texts: Sequence[tuple[str, str]]) -> Tensor:
        """Return the mean loss per token of texts, shape (text,), with gradient: one more forward pass.

        Args:
            texts: A beginning, which is only read, and the text after it, which counts, the end token included. It loses its start
                where the model has too few positions.
        """

    def sampled(self, rows: Sequence[int], draw: Draw) -> Sequence[str]:
        """Return the model's own answers to rows as it is now; the seed, the step and the question decide the draws.

        Args:
            rows: The rows' numbers.
            draw: How tokens are chosen; its seed is not used.
        """

    def said_logits(
        self,
        said: Sequence[tuple[int, str]],
        instead: Mapping[str, Factor] | None = None,
        before: Sequence[str] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return the logits of given answers' tokens, their ends included: one more forward pass.

        Args:
            said: A row's number, and the answer after its question.
            instead: Factors by site that take the new adapter's place in this pass, which then has no gradient.
            before: A text for each row that stands before its question and takes nothing of the question's room. Its end stays: as
                many tokens as a prompt may have, and as the model has positions for.

        Returns:
            Shape (token, vocabulary), float32, and each answer's number of tokens, shape (answer,).
        """

    def imagined(self, count: int, shots: int, draw: Draw) -> Sequence[str]:
        """Return new questions like the task's own, which the bare base model writes from some of these as examples.

        Args:
            count: How many at most; none repeats another or a row.
            shots: Examples in each prompt.
            draw: How tokens are chosen; its seed is not used.
        """

    def embedded(self, questions: Sequence[int | str]) -> Tensor:
        """Return what routing by task vectors sees of rows, by their numbers, and of other questions, by their texts.

        Shape (question, hidden), each of norm 1.
        """


class States(Protocol):
    """A service of a run about hidden states."""

    def states(self, rows: Sequence[int], instead: Mapping[str, Factor] | None = None) -> Tensor:
        """Return what the output layer reads at the answers of some training rows, shape (token, hidden), float32.

        One more forward pass, with gradient unless another LoRA is given.

        Args:
            rows: The rows' numbers.
            instead: Factors by site that take the new adapter's place in this pass; its own without.
        """
