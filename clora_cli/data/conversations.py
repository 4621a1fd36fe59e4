"""Chat rows: ``{"role", "content"}`` and ShareGPT's ``{"from", "value"}`` turns (layer L1)."""

from __future__ import annotations

from collections.abc import Mapping

from clora_cli.data.values import as_text
from clora_cli.errors import DataError

__all__ = ["Turns", "read_turns", "split_answer"]

Turns = tuple[tuple[str, str], ...]

_ROLES = {
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "function_call": "assistant",
    "system": "system",
    "developer": "system",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
}


def read_turns(value: object, where: str, column: str) -> Turns:
    """Return a conversation as ``(role, text)`` turns, roles being user, assistant, system or tool.

    Args:
        value: The cell: a list of turns.
        where: File and place, for messages.
        column: Its column, for messages.

    Raises:
        DataError: It is not a list of turns, or a turn's role is not known.
    """
    if not isinstance(value, list | tuple):
        raise DataError(f"{where}: '{column}' is a {type(value).__name__}; expected a list of turns")
    return tuple(_turn(turn, where, column) for turn in value)


def split_answer(turns: Turns) -> tuple[Turns, tuple[str, ...]]:
    """Return the turns before the last assistant turn, and that turn as the answer; no answer if there is none.

    What follows the last assistant turn has no answer and is left out.
    """
    for i in range(len(turns) - 1, 0, -1):
        if turns[i][0] == "assistant":
            return turns[:i], (turns[i][1],)
    return (), ()


def _turn(turn: object, where: str, column: str) -> tuple[str, str]:
    if not isinstance(turn, Mapping):
        raise DataError(f"{where}: a turn of '{column}' is a {type(turn).__name__}; expected an object")
    role = str(turn.get("role", turn.get("from", ""))).casefold()
    if role not in _ROLES:
        raise DataError(f"{where}: a turn of '{column}' has the role '{role}'; expected one of {', '.join(_ROLES)}")
    content = turn["content"] if "content" in turn else turn.get("value")
    return _ROLES[role], _content(content, where, column)


def _content(value: object, where: str, column: str) -> str:
    """Text of a turn, whose content may come in parts; parts that are not text cannot be used."""
    if not isinstance(value, list):
        return as_text(value, where, column)
    texts = []
    for part in value:
        kind = part.get("type", "text") if isinstance(part, Mapping) else type(part).__name__
        if not isinstance(part, Mapping) or kind != "text":
            raise DataError(f"{where}: a turn of '{column}' has a part of type '{kind}'; only text can be used")
        texts.append(as_text(part.get("text"), where, column))
    return "".join(texts)
