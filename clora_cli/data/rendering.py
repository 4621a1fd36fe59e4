"""Render an example as the text to tokenise, with the span that may be cut (layer L1)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from clora_cli.base.errors import DataError
from clora_cli.data.tools import renders, write_chat

if TYPE_CHECKING:
    from clora_cli.data.task import Example

__all__ = ["NO_TOOLS", "Rendered", "preceded", "render", "shorter_chats"]

NO_TOOLS = (
    "a conversation uses tools, which the base model's chat template cannot write; choose a model whose template can"
)


@dataclass(frozen=True, slots=True)
class Rendered:
    """The text of a prompt.

    Attributes:
        text: All of it.
        start: First character of the part that may be cut.
        stop: End of that part.
        special: Whether the tokenizer must add its special tokens; a chat template already writes them.
    """

    text: str
    start: int
    stop: int
    special: bool


def preceded(example: Example, text: str) -> Example:
    """Return a row with a text before its question: before its prompt, or before the words of its conversation's last turn."""
    if not example.turns:
        return replace(example, head=text + example.head)
    role, last = example.turns[-1]
    return replace(example, turns=(*example.turns[:-1], (role, text + last)))


def render(example: Example) -> Rendered:
    """Return a plain prompt, whose body may be cut."""
    return Rendered(example.prompt, len(example.head), len(example.head) + len(example.body), True)


def shorter_chats(example: Example, tokenizer: Any) -> Iterator[Rendered]:
    """Yield the prompt in the tokenizer's chat template: whole, then without the oldest exchange, and so on.

    A system turn stays. A plain prompt is one user turn. In the last text, the last turn's own words may be cut.

    Raises:
        DataError: The tokenizer has no chat template, or its template refuses the conversation.
    """
    if not renders(example, tokenizer):
        raise DataError(NO_TOOLS, code="chat-template-without-tools")
    messages = example.messages
    opening = 1 if messages[0]["role"] == "system" else 0
    later = [i for i in range(opening + 1, len(messages)) if messages[i]["role"] == "user"]
    for start in (opening, *later):
        kept = [*messages[:opening], *messages[start:]]
        text = write_chat(kept, example.tools, tokenizer)
        cuttable = str(kept[-1]["content"]) if example.turns else example.body
        yield _with_span(text, cuttable.strip())


def _with_span(text: str, cuttable: str) -> Rendered:
    start = text.rfind(cuttable) if cuttable else -1
    return Rendered(text, max(start, 0), start + len(cuttable) if start >= 0 else 0, False)
