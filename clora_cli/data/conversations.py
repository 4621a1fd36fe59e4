"""Chat rows: ``{"role", "content"}`` and ShareGPT's ``{"from", "value"}`` turns, tools and weights included (layer L1)."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from clora_cli.base.errors import DataError
from clora_cli.data.values import as_flag, as_text, is_blank, unpacked

__all__ = ["Found", "Turn", "is_turns", "read_history", "read_tools", "read_turns", "split_answer"]

Found = Callable[..., None]  # told what is not used in a row, and the names of what that concerns, for the notes

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
_SWITCHES = ("weight", "train", "loss")  # OpenAI's, axolotl's and ms-swift's ways to keep a turn from being learned
_NAMED, _SAID = {"role", "from"}, {"content", "value", "tool_calls"}
_READ = {"role", "from", "content", "value", *_SWITCHES, "tool_calls", "function_call", "tool_call_id", "name"}


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn of a conversation.

    Attributes:
        role: ``user``, ``assistant``, ``system`` or ``tool``.
        text: All of it as text; a call's name and arguments as JSON.
        learned: Whether its row lets it be learned.
        message: What a chat template takes beside role and text, where it takes more.
    """

    role: str
    text: str
    learned: bool = True
    message: Mapping[str, Any] = field(default_factory=dict)

    @property
    def calls(self) -> list[str]:
        """The names of the tools that the turn calls."""
        return [str(call["function"]["name"]) for call in self.message.get("tool_calls", ())]

    @property
    def is_answer(self) -> bool:
        """Whether the turn can be learned: the assistant's own words."""
        return self.role == "assistant" and self.learned and not self.calls and bool(self.text.strip())


def read_turns(value: object, where: str, column: str, found: Found) -> tuple[Turn, ...]:
    """Return a conversation's turns.

    Args:
        value: The cell: a list of turns, or its text as JSON.
        where: File and place, for messages.
        column: Its column, for messages.
        found: Told what of a turn is not used.

    Raises:
        DataError: It is not a list of turns, or a turn's role, weight or call is of no known kind.
    """
    value = () if is_blank(value) else unpacked(value)
    if not isinstance(value, list | tuple):
        raise DataError(
            f"{where}: '{column}' is a {type(value).__name__}; expected a list of turns", code="turns-not-a-list"
        )
    unused = {
        str(key) for turn in value if isinstance(turn, Mapping) for key in turn if not is_blank(turn[key])
    } - _READ
    if unused:
        found(f"what turns of '{column}' hold beside role and content is not used", *unused)
    return tuple(_turn(turn, where, column) for turn in value)


def read_history(value: object, where: str, column: str, found: Found) -> tuple[Turn, ...]:
    """Return earlier exchanges: pairs of a question and an answer, or turns; as a list or as its text.

    Raises:
        DataError: It is a list of something else.
    """
    value = unpacked(value)
    if isinstance(value, list | tuple) and all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in value):
        said = [(role, as_text(text, where, column)) for pair in value for role, text in zip(_SIDES, pair, strict=True)]
        return tuple(Turn(role, text) for role, text in said)
    if isinstance(value, list | tuple) and any(isinstance(pair, list | tuple | str) for pair in value):
        raise DataError(
            f"{where}: '{column}' is no list of [question, answer] pairs or of turns; mend or remove it",
            code="history-malformed",
        )
    return read_turns(value, where, column, found)


_SIDES = ("user", "assistant")


def split_answer(turns: tuple[Turn, ...], found: Found) -> tuple[tuple[Turn, ...], tuple[str, ...]]:
    """Return the turns before the last answer, and that answer; none if the assistant says nothing to be learned.

    What follows the last answer has none and is left out.
    """
    silent = [turn for turn in turns[1:] if turn.role == "assistant" and not turn.is_answer]
    if any(not turn.learned for turn in silent):
        found("answers of weight 0 are read, not learned")
    if names := {name for turn in silent for name in turn.calls}:
        found("calls of tools are read, not learned", *names)
    for i in range(len(turns) - 1, 0, -1):
        if turns[i].is_answer:
            if i + 1 < len(turns):
                found("turns after the last answer that can be learned are left out")
            return turns[:i], (turns[i].text,)
    return turns, ()


def read_tools(value: object, where: str, column: str) -> list[Any]:
    """Return the definitions of tools, in a cell as a list or as its text.

    Raises:
        DataError: It is no list of objects.
    """
    value = [] if is_blank(value) else unpacked(value)
    if not isinstance(value, list) or not all(isinstance(tool, Mapping) for tool in value):
        raise DataError(
            f"{where}: '{column}' is no list of tools; write each as a JSON object", code="tools-not-a-list"
        )
    return value


def is_turns(value: object) -> bool:
    """Whether a cell holds a conversation: a list of turns, or the text of one, which no other JSON is taken for."""
    if isinstance(value, str):
        listed = unpacked(value) if "role" in value or "from" in value else None
        return isinstance(listed, list) and bool(listed) and all(map(_is_turn, listed))
    return isinstance(value, list) and bool(value) and all(isinstance(t, Mapping) and _NAMED & set(t) for t in value)


def _is_turn(value: object) -> bool:
    if not isinstance(value, Mapping) or not _SAID & set(value):
        return False
    return str(value.get("role", value.get("from", ""))).casefold() in _ROLES


def _turn(turn: object, where: str, column: str) -> Turn:
    if not isinstance(turn, Mapping):
        raise DataError(
            f"{where}: a turn of '{column}' is a {type(turn).__name__}; expected an object", code="turn-not-an-object"
        )
    named = str(turn.get("role", turn.get("from", ""))).casefold()
    if named not in _ROLES:
        raise DataError(
            f"{where}: a turn of '{column}' has the role '{named}'; expected one of {', '.join(_ROLES)}",
            code="turn-role-unknown",
        )
    role = _ROLES[named]
    content = _content(turn["content"] if "content" in turn else turn.get("value"), where, column)
    learned = all(_switch(turn.get(name), name, where, column) for name in _SWITCHES)
    calls = _calls(content if named == "function_call" else _called(turn), where, column) if role == "assistant" else []
    if calls:
        said = "" if named == "function_call" else content
        written = "\n".join(json.dumps(call["function"], ensure_ascii=False) for call in calls)
        return Turn(role, f"{said}\n{written}".strip(), learned, {"content": said, "tool_calls": calls})
    if role == "tool":
        names = {key: str(turn[key]) for key in ("name", "tool_call_id") if not is_blank(turn.get(key))}
        return Turn(role, content, learned, names or {"content": content})
    return Turn(role, content, learned)


def _called(turn: Mapping[str, object]) -> object:
    calls = turn.get("tool_calls")
    return turn.get("function_call") if is_blank(calls) else calls


def _calls(value: object, where: str, column: str) -> list[dict[str, Any]]:
    """Calls as templates take them: a name and arguments by name, whatever they were wrapped in."""
    value = unpacked(value)
    if is_blank(value):
        return []
    calls = []
    for call in value if isinstance(value, list) else [value]:
        function = call.get("function", call) if isinstance(call, Mapping) else call
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise DataError(
                f"{where}: a call of a tool in '{column}' has no name; write it as {{name, arguments}}",
                code="tool-call-without-name",
            )
        arguments = unpacked(function.get("arguments", function.get("parameters", {})))
        called = {"type": "function", "function": {"name": function["name"], "arguments": arguments}}
        identity = {"id": str(call["id"])} if isinstance(call, Mapping) and not is_blank(call.get("id")) else {}
        calls.append(identity | called)
    return calls


def _switch(value: object, name: str, where: str, column: str) -> bool:
    if value is None:
        return True
    if (flag := as_flag(value)) is None:
        raise DataError(
            f"{where}: a turn of '{column}' has the {name} {value!r}; only 0 and 1 can be used",
            code="turn-weight-not-supported",
        )
    return flag


def _content(value: object, where: str, column: str) -> str:
    """Text of a turn, whose content may come in parts; parts that are not text cannot be used."""
    if not isinstance(value, list):
        return as_text(value, where, column)
    texts = []
    for part in value:
        kind = part.get("type", "text") if isinstance(part, Mapping) else type(part).__name__
        if not isinstance(part, Mapping) or kind != "text":
            raise DataError(
                f"{where}: a turn of '{column}' has a part of type '{kind}'; only text can be used",
                code="content-not-text",
            )
        texts.append(as_text(part.get("text"), where, column))
    return "".join(texts)
