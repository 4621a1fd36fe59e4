"""Turn examples into token ids: always keep the cue, mask exactly the prompt, end with one end token (layer L1).

Works with fast and slow Transformers tokenizers of causal, T5-like and BERT-like families, and imports none of them.

Causal items are ``prompt + answer + end`` with the prompt's labels at -100. Sequence-to-sequence items are the prompt
as the encoder's tokenizer writes it, and ``answer + end`` as labels, without the decoder's start token.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

from clora_cli.base.errors import DataError, translated
from clora_cli.data.rendering import NO_TOOLS, Rendered, render, shorter_chats
from clora_cli.data.tokens import IGNORED, Tokens

if TYPE_CHECKING:
    from clora_cli.data.task import Example, Task

__all__ = ["IGNORED", "Kind", "encode", "encode_answer", "encode_answers", "encode_prompt", "uses_chat"]

Kind = Literal["causal", "seq2seq"]


def encode(
    example: Example,
    tokenizer: Any,
    *,
    kind: Kind,
    max_length: int,
    max_answer_length: int = 64,
    chat: bool = False,
    answer: str | None = None,
) -> dict[str, list[int]]:
    """Return a training item: ``input_ids`` and ``labels``.

    Args:
        example: Prompt and references.
        tokenizer: A Transformers tokenizer, or the ``Tokens`` of a loaded model, which know its limits.
        kind: ``causal`` or ``seq2seq``.
        max_length: Most tokens of the prompt, including special ones (seq2seq), or of prompt and answer (causal).
        max_answer_length: Most tokens of the answer, including the end token; a longer answer loses its tail.
        chat: Use the tokenizer's chat template.
        answer: Text to train on; the first reference by default.

    Raises:
        DataError: Instruction and cue alone do not fit, or ``chat`` is set and the tokenizer has no template.
    """
    tokens = Tokens.of(tokenizer)
    text = example.references[0] if answer is None else answer
    whole = _whole(example, tokens, chat)
    ids = _prompt_ids(whole, tokens, kind)
    target = _answers(whole, ids, [text], tokens, kind, chat)[0]
    longest = tokens.most_answer(max_answer_length, causal=kind == "causal")
    target = [*target[:-1][: longest - 1], target[-1]]
    max_length = tokens.most(max_length)
    if kind == "seq2seq":
        return {"input_ids": _fitted(example, ids, tokens, kind, max_length, chat), "labels": target}
    prompt = _fitted(example, ids, tokens, kind, max_length - len(target), chat)
    return {"input_ids": prompt + target, "labels": [IGNORED] * len(prompt) + target}


def encode_prompt(
    example: Example, tokenizer: Any, *, kind: Kind, max_length: int | None, chat: bool = False
) -> list[int]:
    """Return the ids of a prompt with its special tokens, cut to ``max_length`` (None: uncut) and to the model's positions.

    An image is one token, whatever its size.

    A long prompt loses tokens of its body from the left, or the oldest turns of its conversation and then the start
    of the last one. The remaining tokens are exactly those of the whole prompt.

    Raises:
        DataError: The parts that must not be cut are already longer than ``max_length``, or an image cannot be read.
        MismatchError: The model reads texts and the row is an image, or the other way round.
    """
    tokens = Tokens.of(tokenizer)
    if (number := tokens.number(example)) is not None:
        return [number]
    ids = _prompt_ids(_whole(example, tokens, chat), tokens, kind)
    return ids if max_length is None else _fitted(example, ids, tokens, kind, tokens.most(max_length), chat)


def encode_answer(example: Example, answer: str, tokenizer: Any, *, kind: Kind, chat: bool = False) -> list[int]:
    """Return the label tokens of an answer, the end token included, exactly as training on it would use them."""
    return encode_answers(example, [answer], tokenizer, kind=kind, chat=chat)[0]


def encode_answers(
    example: Example, answers: Sequence[str], tokenizer: Any, *, kind: Kind, chat: bool = False
) -> list[list[int]]:
    """Return :func:`encode_answer` for several answers to one prompt, which is tokenised only once.

    A causal answer's tokens are those that follow the prompt's in the text ``prompt + " " + answer``. Where the two
    would fuse into other tokens, which a model could not generate from the prompt alone, the answer is tokenised
    apart. No space is put after a prompt that ends in white space or before an answer that starts with it.
    """
    tokens = Tokens.of(tokenizer)
    whole = _whole(example, tokens, chat)
    return _answers(whole, _prompt_ids(whole, tokens, kind), answers, tokens, kind, chat)


def uses_chat(task: Task, tokenizer: Any) -> bool:
    """Whether a task's prompts use the tokenizer's chat template: if they are conversations and there is a template."""
    return task.template == "chat" and Tokens.of(tokenizer).chat


def _whole(example: Example, tokens: Tokens, chat: bool) -> Rendered:
    if example.tooling and not chat:
        raise DataError(NO_TOOLS, code="chat-template-without-tools")
    return next(_chats(example, tokens)) if chat else render(example)


def _chats(example: Example, tokens: Tokens) -> Iterator[Rendered]:
    with translated("the tokenizer's chat template fails", DataError, code="chat-template-fails"):
        yield from shorter_chats(example, tokens.tokenizer)


def _fitted(example: Example, ids: list[int], tokens: Tokens, kind: Kind, max_length: int, chat: bool) -> list[int]:
    """Ids of the whole prompt if they fit, else of its longest part that does."""
    if len(ids) <= max_length:
        return ids
    rendered = render(example)
    for rendered in _chats(example, tokens) if chat else ():
        ids = _prompt_ids(rendered, tokens, kind)
        if len(ids) <= max_length:
            return ids
    return _cut(rendered, tokens, kind, max_length)


def _answers(
    whole: Rendered, prompt: list[int], answers: Sequence[str], tokens: Tokens, kind: Kind, chat: bool
) -> list[list[int]]:
    end = tokens.end(chat=chat)
    found = [
        _plain_ids(tokens, answer) if kind == "seq2seq" else _continuation(whole, prompt, answer, tokens)
        for answer in answers
    ]
    return [tokens.checked([*ids, end], answer=True) for ids in found]


def _continuation(rendered: Rendered, prompt: list[int], answer: str, tokens: Tokens) -> list[int]:
    """Ids of an answer after a prompt, without the end token."""
    gap = "" if not rendered.text or rendered.text[-1].isspace() or answer[:1].isspace() else " "
    joint = _without_end(tokens.ids(f"{rendered.text}{gap}{answer}", special=rendered.special), tokens)
    if joint[: len(prompt)] == prompt and len(joint) > len(prompt):
        return joint[len(prompt) :]
    wanted = _squeezed(f"{rendered.text}{gap}{answer}")
    apart = [_plain_ids(tokens, text) for text in dict.fromkeys((f"{gap}{answer}", answer))]
    return next((ids for ids in apart if _squeezed(tokens.text(prompt + ids)) == wanted), apart[0])


def _prompt_ids(rendered: Rendered, tokens: Tokens, kind: Kind) -> list[int]:
    ids = tokens.ids(rendered.text, special=rendered.special)
    ids = ids if kind == "seq2seq" else _without_end(ids, tokens)
    return tokens.checked(ids or [tokens.opening])


def _without_end(ids: list[int], tokens: Tokens) -> list[int]:
    """Remove an end token that the tokenizer appends to every text: a causal prompt goes on."""
    return ids[:-1] if len(ids) > 1 and ids[-1] == tokens.appended else ids


def _plain_ids(tokens: Tokens, text: str) -> list[int]:
    return _without_end(tokens.ids(text, special=False), tokens)


def _squeezed(text: str) -> str:
    return "".join(text.split())


def _cut(rendered: Rendered, tokens: Tokens, kind: Kind, max_length: int) -> list[int]:
    if getattr(tokens.tokenizer, "is_fast", False):
        return _cut_tokens(rendered, tokens, kind, max_length)
    return _cut_characters(rendered, tokens, kind, max_length)


def _cut_tokens(rendered: Rendered, tokens: Tokens, kind: Kind, max_length: int) -> list[int]:
    """Drop tokens that lie wholly inside the body, from its left, whole characters at a time."""
    ids = _prompt_ids(rendered, tokens, kind)
    encoded = tokens.tokenizer(
        rendered.text,
        add_special_tokens=rendered.special,
        return_offsets_mapping=True,
        return_special_tokens_mask=True,
        verbose=False,
    )
    spans, special = encoded["offset_mapping"], encoded["special_tokens_mask"]
    inside = [
        i
        for i, (start, stop) in enumerate(spans[: len(ids)])
        if not special[i] and rendered.start <= start < stop <= rendered.stop
    ]
    excess = len(ids) - max_length
    if excess > len(inside):
        raise _too_long(rendered, len(ids) - len(inside), max_length, tokens)
    while excess < len(inside) and spans[inside[excess]][0] < spans[inside[excess - 1]][1]:
        excess += 1  # the bytes of one character stay together
    dropped = set(inside[:excess])
    return [token for i, token in enumerate(ids) if i not in dropped]


def _cut_characters(rendered: Rendered, tokens: Tokens, kind: Kind, max_length: int) -> list[int]:
    """Without offsets: cut the fewest characters from the body's left so that the text, tokenised again, fits."""

    def cut(characters: int) -> list[int]:
        text = rendered.text[: rendered.start] + rendered.text[rendered.start + characters :]
        return _prompt_ids(Rendered(text, rendered.start, rendered.stop, rendered.special), tokens, kind)

    low, high = 0, rendered.stop - rendered.start
    if len(cut(high)) > max_length:
        raise _too_long(rendered, len(cut(high)), max_length, tokens)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if len(cut(middle)) <= max_length else (middle, high)
    return cut(high)


def _too_long(rendered: Rendered, needed: int, max_length: int, tokens: Tokens) -> DataError:
    start = " ".join(rendered.text.split())[:60]
    known = "" if tokens.positions is None else f" ({tokens.model} has {tokens.positions} positions in all)"
    return DataError(
        f"the prompt '{start}...' needs {needed} tokens without its text and has {max(max_length, 0)}; "
        f"raise --max-length{known} or shorten the instruction",
        code="prompt-too-long",
    )
