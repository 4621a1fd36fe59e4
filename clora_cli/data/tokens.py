"""All decisions about special tokens and lengths, in one place (layer L1).

Which token ends an answer, which pads, where a decoder starts, how long a prompt may be: tokenizer, configuration,
generation configuration and chat template all say something about these, and do not always agree. :class:`Tokens` decides
once, for training, features, scoring and generation alike.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from clora_cli.base.errors import ArtifactError, DataError, MismatchError, translated

if TYPE_CHECKING:
    from torch import Tensor

    from clora_cli.data.task import Example
    from clora_cli.model.seeing import Seen

__all__ = ["IGNORED", "Tokens", "other_kind"]

IGNORED = -100
_MARKER = re.compile(r"<(?!0x).+>|\[[A-Z]+\]")  # spelling of control tokens that a tokenizer does not list as special
_ANSWER = "answer"


@dataclass(frozen=True, eq=False)
class Tokens:
    """The decisions about tokens; made from a tokenizer alone, they set no limits.

    Attributes:
        tokenizer: A Transformers tokenizer.
        stops: Tokens at which the model stops by its generation configuration, or else its configuration.
        pads: Tokens with which its configurations pad.
        starts: Tokens with which they start a decoder, most likely first.
        rows: Number of tokens that a prompt can be made of: rows of the embedding; None for any.
        answer_rows: Number of tokens that an answer can be made of; None for any.
        positions: Most tokens of a prompt, in causal models with its answer; None for no limit.
        answer_positions: Most tokens of an encoder-decoder's answer; None for no limit.
        made_for: Positions that the model was trained for, if it can go beyond them; None if unknown.
        model: The model's name in messages.
        seen: The images that a model sees, each of which is one token by its number there; None of a model that reads texts.
    """

    tokenizer: Any
    stops: tuple[int, ...] = ()
    pads: tuple[int, ...] = ()
    starts: tuple[int, ...] = ()
    rows: int | None = None
    answer_rows: int | None = None
    positions: int | None = None
    answer_positions: int | None = None
    made_for: int | None = None
    model: str = "the model"
    seen: Seen | None = None

    @classmethod
    def of(cls, source: Any) -> Tokens:
        """Return the decisions for a tokenizer alone; ``Tokens`` are returned as they are."""
        return source if isinstance(source, cls) else cls(source)

    @property
    def chat(self) -> bool:
        """Whether there is a chat template."""
        return bool(getattr(self.tokenizer, "chat_template", None))

    @cached_property
    def appended(self) -> int | None:
        """The token with which the tokenizer ends a text, if any: its end of sequence, else its separator."""
        return next(iter(self._named("eos", "sep")), None)

    @cached_property
    def pad(self) -> int:
        """The token that pads: the padding token, else end, separator or unknown token, and the start token last of all.

        A padding token that equals the start token is skipped if there is another: a mask derived from it would hide the
        start of every text. So is one without an embedding in the model.

        Raises:
            DataError: There is no special token at all.
        """
        candidates = [*self._named("pad", "eos", "sep"), *self.pads, *self._named("unk", "bos")]
        known = [token for token in candidates if _below(token, self.rows) and _below(token, self.answer_rows)]
        start = self._named("bos")
        if not known:
            raise DataError("the tokenizer has no token to pad with; set its pad_token", code="no-padding-token")
        return next((token for token in known if token not in start), known[0])

    @cached_property
    def start(self) -> int:
        """The token with which a decoder starts.

        Raises:
            ArtifactError: No configuration names one that the model has.
        """
        for token in (*self.starts, *self._named("bos", "cls")):
            if _below(token, self.answer_rows):
                return token
        raise ArtifactError(
            f"{self.model} does not say with which token its decoder starts; set decoder_start_token_id",
            code="decoder-start-unknown",
        )

    @property
    def opening(self) -> int:
        """The token used for an empty prompt: a model reads at least one."""
        return next((token for token in self._named("bos") if _below(token, self.rows)), self.end())

    def end(self, *, chat: bool = False) -> int:
        """Return the token that ends an answer in training: one at which the model's own generation stops, if known.

        Args:
            chat: Whether a chat template is used; then its own end of turn is returned, if generation stops there.

        Raises:
            DataError: Neither tokenizer nor model names one that the model has.
        """
        if chat and self._turn_end is not None and self._turn_end in (*self._stops, *self._own):
            return self._turn_end
        choices = [*(token for token in self._own if not self._stops or token in self._stops), *self._stops, *self._own]
        if not choices:
            raise DataError(
                "the tokenizer has neither an end-of-sequence nor a separator token that the model knows; set its eos_token",
                code="no-end-token",
            )
        return choices[0]

    def ends(self, *, chat: bool = False) -> tuple[int, ...]:
        """Return the tokens at which generation stops: those of all sources, to end answers however the model learned to."""
        turn = [self._turn_end] if chat and self._turn_end is not None else []
        return tuple(dict.fromkeys([self.end(chat=chat), *self._own[:1], *self._stops, *turn]))

    def decoder_inputs(self, labels: Tensor) -> Tensor:
        """Return the decoder inputs for labels: the labels shifted by one token; shape (row, token), like the labels."""
        given = labels.new_full(labels.shape, self.start)
        given[:, 1:] = labels[:, :-1]
        return given.masked_fill(given == IGNORED, self.pad)

    def most(self, asked: int, answer: int = 0) -> int:
        """Return how many tokens a prompt may have.

        Args:
            asked: As many as the user allows.
            answer: Positions to reserve for the answer, at most half of all.
        """
        if self.positions is None:
            return asked
        return min(asked, self.positions - min(answer, self.positions // 2))

    def most_answer(self, asked: int, *, causal: bool) -> int:
        """Return how many tokens an answer may have; in causal models it gets half of the positions at most."""
        limit = self.answer_positions if not causal else self.positions and self.positions // 2
        return asked if limit is None else min(asked, limit)

    def remarks(self, asked: int, longest: int, answer: int = 0) -> list[str]:
        """Return remarks for the user on prompt lengths: on prompts that are cut, and on lengths beyond the trained positions.

        Args:
            asked: As many tokens of a prompt as the user allows.
            longest: Tokens of the longest prompt; in training with its answer.
            answer: Positions left to the answer.
        """
        notes = []
        if (most := self.most(asked, answer)) < asked:
            notes.append(
                f"{self.model} has {self.positions} positions: prompts are cut to {most} tokens, not to {asked}"
            )
        if self.made_for is not None and longest + answer > self.made_for:
            notes.append(
                f"{self.model} was made for {self.made_for} positions and goes beyond them here; answers may suffer: "
                f"--max-length {max(1, self.made_for - answer)} would keep within them"
            )
        return notes

    @property
    def disagreement(self) -> str:
        """A remark for the user if the model's own configuration does not stop where answers end; else empty."""
        if not self.stops or self.end() in self.stops:
            return ""
        text = self.tokenizer.convert_ids_to_tokens(self.end())
        return (
            f"answers end with '{text}', at which {self.model} does not stop by its own configuration: clora does; "
            "tell a server to stop there too"
        )

    def number(self, example: Example) -> int | None:
        """Return the token that a row's image is; None where both the row and the model are of texts.

        Raises:
            MismatchError: One of them is, and the other is not.
            DataError: The image cannot be read.
        """
        if (self.seen is None) != (example.picture is None):
            raise other_kind(self.model, self.seen is not None)
        return self.seen.number(example.picture) if self.seen and example.picture else None

    def ids(self, text: str, *, special: bool) -> list[int]:
        """Tokenise a text, with or without the special tokens that the tokenizer adds.

        Raises:
            DataError: The tokenizer fails on it.
        """
        with translated(f"the tokenizer fails on '{_excerpt(text)}'", DataError, code="tokenizer-fails"):
            return list(self.tokenizer(text, add_special_tokens=special, verbose=False)["input_ids"])

    def text(self, ids: list[int]) -> str:
        """Return what tokens spell, special ones and half a character at the start left out.

        Raises:
            DataError: The tokenizer cannot read them back.
        """
        with translated("the tokenizer cannot read its own tokens back", DataError, code="tokenizer-cannot-decode"):
            text = self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return str(text).lstrip("\ufffd")

    def checked(self, ids: list[int], *, answer: bool = False) -> list[int]:
        """Return the tokens, after checking that the model has an embedding for each.

        Raises:
            MismatchError: It has none for one of them.
        """
        rows = self.answer_rows if answer else self.rows
        if rows is not None and (odd := [token for token in ids if token is None or token >= rows]):
            with translated(
                f"{self.model} has no embedding for token {odd[0]}", MismatchError, code="tokenizer-other-model"
            ):
                text = self.tokenizer.convert_ids_to_tokens(odd[0])
            raise MismatchError(
                f"the tokenizer has token {odd[0]} ('{text}'), and {self.model} has embeddings for {rows}; "
                "give the tokenizer that belongs to the model",
                code="tokenizer-other-model",
            )
        return ids

    @cached_property
    def _own(self) -> list[int]:
        return [token for token in self._named("eos", "sep") if _below(token, self.answer_rows)]

    @cached_property
    def _stops(self) -> list[int]:
        """The model's own stops, without ordinary text if the tokenizer has an end token."""
        known = [token for token in self.stops if _below(token, self.answer_rows)]
        return [token for token in known if token in self._own or self._is_marker(token)] if self._own else known

    @cached_property
    def _turn_end(self) -> int | None:
        """The token with which the chat template ends an assistant's turn, if it is a single one."""
        from jinja2.exceptions import TemplateError

        if not self.chat:
            return None
        turns = [{"role": "user", "content": "question"}, {"role": "assistant", "content": _ANSWER}]
        try:
            with translated("the chat template fails", DataError, code="chat-template-fails"):
                text = str(self.tokenizer.apply_chat_template(turns, tokenize=False))
        except (TemplateError, DataError):  # it does not accept the conversation: its end of turn stays unknown
            return None
        after = text.rpartition(_ANSWER)[2] if _ANSWER in text else ""
        marks = (token for token in self.ids(after, special=False) if self._is_marker(token))
        return next((token for token in marks if _below(token, self.answer_rows)), None)

    def _is_marker(self, token: int) -> bool:
        """Whether a token is not ordinary text: special, added to the vocabulary, or spelled like such tokens."""
        special = {
            *getattr(self.tokenizer, "all_special_ids", ()),
            *getattr(self.tokenizer, "added_tokens_decoder", ()),
        }
        if token in special:
            return True
        with translated(f"the tokenizer does not know token {token}", MismatchError, code="tokenizer-token-unknown"):
            return _MARKER.fullmatch(str(self.tokenizer.convert_ids_to_tokens(token))) is not None

    def _named(self, *roles: str) -> list[int]:
        numbers = (getattr(self.tokenizer, f"{role}_token_id", None) for role in roles)
        return [int(token) for token in numbers if token is not None]


def other_kind(model: str, sees: bool) -> MismatchError:
    """Return the error for rows that a model cannot read: images by one that reads texts, texts by one that sees."""
    reads, given = ("images", "texts") if sees else ("texts", "images")
    return MismatchError(
        f"{model} reads {reads}, and the rows are {given}; give data of {reads}, or another model",
        code="rows-of-other-kind",
    )


def _below(token: int | None, rows: int | None) -> bool:
    return token is not None and token >= 0 and (rows is None or token < rows)


def _excerpt(text: str) -> str:
    return " ".join(text[-200:].split())[-60:]
