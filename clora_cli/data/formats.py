"""Sets of columns, and how to build an example from a row of each (layer L1)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from clora_cli.data import choices
from clora_cli.data.conversations import Found, Turn, is_turns, read_history, read_tools, read_turns, split_answer
from clora_cli.data.findings import MISSING
from clora_cli.data.pictures import picture_in
from clora_cli.data.readers import Record
from clora_cli.data.roles import ANSWERS
from clora_cli.data.task import Example
from clora_cli.data.templates import OPTIONS_CUE, alpaca, chat, pair, question, tooling_text
from clora_cli.data.values import as_answers, as_text, is_blank, missing, several

__all__ = ["ASKED", "FORMATS", "Fields", "Format"]

Fields = Mapping[str, str]
Build = Callable[[Record, Fields, Found], Example]


@dataclass(frozen=True, slots=True)
class Format:
    """A set of roles and how to build an example from a row with them."""

    template: str
    required: tuple[str, ...]
    optional: tuple[str, ...]
    build: Build
    closed: bool = False
    ask: Build | None = None  # used instead where the answer may be missing

    @property
    def roles(self) -> tuple[str, ...]:
        """All roles, required ones first."""
        return (*self.required, *self.optional)

    def without_answer(self) -> Format:
        """Return the format for rows that may lack the answer."""
        required = tuple(role for role in self.required if role not in ANSWERS)
        answers = tuple(role for role in self.required if role in ANSWERS)
        build = self.ask or self.build
        return dataclasses.replace(self, required=required, optional=(*self.optional, *answers), build=build)


def _text(row: Record, fields: Fields, role: str) -> str:
    column = fields.get(role)
    return as_text(row.values.get(column), row.where, column) if column else ""


def _answers(row: Record, fields: Fields, role: str) -> tuple[str, ...]:
    column = fields.get(role)
    return as_answers(several(row.values[column], column), row.where, column) if column else ()


def _stripped(texts: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(text.strip() for text in texts)


def _turns(row: Record, fields: Fields, role: str, found: Found) -> tuple[Turn, ...]:
    """The turns in a column, after the text of the system column if there is one."""
    return _opened(row, fields, read_turns(row.values[fields[role]], row.where, fields[role], found), found)


def _opened(row: Record, fields: Fields, turns: tuple[Turn, ...], found: Found) -> tuple[Turn, ...]:
    system = _text(row, fields, "system")
    if not system.strip():
        return turns
    if turns and turns[0].role == "system":
        if turns[0].text.strip() != system.strip():
            found(f"'{fields['system']}' is not used where the turns begin with a system text")
        return turns
    return (Turn("system", system), *turns)


def _example(row: Record, fields: Fields, turns: tuple[Turn, ...], answers: tuple[str, ...]) -> Example:
    column = fields.get("tools")
    tools = read_tools(row.values.get(column), row.where, column) if column else []
    muted = tuple(i for i, turn in enumerate(turns) if turn.role == "assistant" and not turn.learned)
    beside = {str(i): dict(turn.message) for i, turn in enumerate(turns) if turn.message}
    return chat(tuple((turn.role, turn.text) for turn in turns), answers, muted, tooling_text(tools, beside))


def _conversation(role: str) -> Build:
    return lambda row, fields, found: _example(row, fields, *split_answer(_turns(row, fields, role, found), found))


def _asked_conversation(role: str) -> Build:
    return lambda row, fields, found: _example(row, fields, _unanswered(_turns(row, fields, role, found)), ())


def _unanswered(turns: tuple[Turn, ...]) -> tuple[Turn, ...]:
    return turns[:-1] if turns and turns[-1].role == "assistant" else turns


def _chat_columns(fields: Fields) -> bool:
    """Whether plain columns hold the last turn of a conversation, after a system text or earlier turns."""
    return bool({"system", "history", "tools"} & set(fields))


def _after_history(row: Record, fields: Fields, asked: str, answers: tuple[str, ...], found: Found) -> Example:
    if not asked.strip():
        return Example("", "", "", answers)
    column = fields.get("history")
    value = row.values.get(column) if column else None
    turns = () if is_blank(value) else read_history(value, row.where, column or "", found)
    return _example(row, fields, _opened(row, fields, (*turns, Turn("user", asked)), found), answers)


def _alpaca(row: Record, fields: Fields, found: Found) -> Example:
    answers = _stripped(_answers(row, fields, "output"))
    return _instruction(row, fields, answers, found)


def _instruction(row: Record, fields: Fields, answers: tuple[str, ...], found: Found) -> Example:
    instruction, given = _text(row, fields, "instruction"), _text(row, fields, "input")
    if _chat_columns(fields):
        asked = "\n".join(text for text in (instruction.strip(), given.strip()) if text)
        return _after_history(row, fields, asked, answers, found)
    return alpaca(instruction, given, answers)


def _plain(row: Record, fields: Fields, prompt: str, answer: str, found: Found) -> Example:
    value = row.values.get(fields[answer]) if answer in fields else None
    asked = row.values[fields[prompt]]
    if isinstance(asked, list) or is_turns(asked) or is_turns(value):
        turns = _asked(row, fields, prompt, found)
        if answer not in fields:
            return _example(row, fields, _unanswered(turns), ())
        if is_turns(value):
            replies = read_turns(value, row.where, fields[answer], found)
            return _example(row, fields, *split_answer((*turns, *replies), found))
        return _example(row, fields, turns, _answers(row, fields, answer))
    answers = _answers(row, fields, answer)
    if _chat_columns(fields):
        return _after_history(row, fields, _text(row, fields, prompt), answers, found)
    return Example("", _text(row, fields, prompt), "", answers)


def _prompt_completion(row: Record, fields: Fields, found: Found) -> Example:
    return _plain(row, fields, "prompt", "completion", found)


def _asked(row: Record, fields: Fields, role: str, found: Found) -> tuple[Turn, ...]:
    """The turns in a prompt; a text is a single turn."""
    value = row.values[fields[role]]
    if isinstance(value, list) or is_turns(value):
        return _turns(row, fields, role, found)
    text = _text(row, fields, role)
    return _opened(row, fields, (Turn("user", text),) if text.strip() else (), found)


def _input_output(row: Record, fields: Fields, found: Found) -> Example:
    return _plain(row, fields, "input", "output", found)


def _labels(row: Record, fields: Fields, found: Found) -> tuple[str, ...]:
    column = fields.get("label")
    value = row.values.get(column) if column else ()
    if spelled := missing(value, label=True):
        found(MISSING, spelled)
        return ()
    return _stripped(_answers(row, fields, "label"))


def _labelled(row: Record, fields: Fields, role: str, found: Found) -> str:
    if spelled := missing(row.values.get(fields[role]), label=True):
        found(MISSING, spelled)
        return ""
    return _text(row, fields, role).strip()


def _text_label(row: Record, fields: Fields, found: Found) -> Example:
    return Example("", _labelled(row, fields, "text", found), OPTIONS_CUE, _labels(row, fields, found))


def _pair_label(row: Record, fields: Fields, found: Found) -> Example:
    first, second = [role for role in fields if role in {"first", "second", "question", "sentence"}]
    texts = (_labelled(row, fields, first, found), _labelled(row, fields, second, found))
    return pair((fields[first], fields[second]), texts, _labels(row, fields, found))


def _image_label(row: Record, fields: Fields, found: Found) -> Example:
    column = fields["image"]
    picture = picture_in(row.values.get(column), row.where, column, Path(row.file).parent)
    return Example("", picture.name if picture else "", "", _labels(row, fields, found), picture=picture)


def _question_answer(row: Record, fields: Fields, found: Found) -> Example:
    answers = _stripped(_answers(row, fields, "answer"))
    asked, context = _text(row, fields, "question"), _text(row, fields, "context")
    if _chat_columns(fields):
        both = "\n".join(text for text in (context.strip(), asked.strip()) if text)
        return _after_history(row, fields, both if asked.strip() else "", answers, found)
    return question(asked, context, answers)


def _preferred(asked: str) -> Build:
    """Build rows with a chosen and a rejected answer to the text or turns of the role ``asked``."""

    def build(row: Record, fields: Fields, found: Found) -> Example:
        chosen = _chosen_turns(row, fields, found)
        if chosen and chosen[0].role != "assistant":  # the prompt stands in it too
            return _example(row, fields, *split_answer(_opened(row, fields, chosen, found), found))
        answers = tuple(turn.text for turn in chosen[-1:]) if chosen else _answers(row, fields, "chosen")
        if asked == "instruction":
            return _instruction(row, fields, answers, found)
        cell = row.values.get(fields[asked])
        if asked == "conversations" or isinstance(cell, list) or is_turns(cell):
            turns = _turns(row, fields, asked, found)
            return _example(row, fields, *(split_answer((*turns, *chosen), found) if chosen else (turns, answers)))
        text = _text(row, fields, asked)
        if chosen or _chat_columns(fields):
            return _after_history(row, fields, text, answers, found)
        return Example("", text, "", answers)

    return build


def _chosen(row: Record, fields: Fields, found: Found) -> Example:
    return _example(row, fields, *split_answer(_opened(row, fields, _chosen_turns(row, fields, found), found), found))


def _chosen_turns(row: Record, fields: Fields, found: Found) -> tuple[Turn, ...]:
    """The chosen answer as turns; empty if it is a plain text beside a prompt."""
    if not is_blank(row.values.get(fields.get("rejected", ""))):
        found("rejected answers are not learned")
    value = row.values.get(fields["chosen"]) if "chosen" in fields else ()
    if isinstance(value, Mapping):
        value = [value]
    if (
        not isinstance(value, list | tuple)
        and not is_turns(value)
        and {"conversations", "instruction", "prompt", "question"} & set(fields)
    ):
        return ()
    return read_turns(value, row.where, fields.get("chosen", ""), found)


_CHAT = ("system", "tools", "verdict")
FORMATS = (
    Format("chat", ("conversations", "chosen"), ("system", "tools", "rejected"), _preferred("conversations")),
    Format("chat", ("messages",), _CHAT, _conversation("messages"), ask=_asked_conversation("messages")),
    Format("chat", ("conversations",), _CHAT, _conversation("conversations"), ask=_asked_conversation("conversations")),
    Format("alpaca", ("instruction", "output"), ("input", "history", *_CHAT), _alpaca),
    Format("plain", ("prompt", "completion"), ("history", *_CHAT), _prompt_completion),
    Format("choice", ("stem", "choices", "key"), ("context",), choices.build, closed=True),
    Format("text-label", ("question", "sentence", "label"), (), _pair_label, closed=True),
    Format("text-label", ("text", "label"), (), _text_label, closed=True),
    Format("text-label", ("first", "second", "label"), (), _pair_label, closed=True),
    Format(
        "choice",
        ("stem", *list(choices.COLUMNS)[:2], "key"),
        ("context", *list(choices.COLUMNS)[2:]),
        choices.build,
        closed=True,
    ),
    Format("plain", ("input", "output"), (), _input_output),
    Format("question-answer", ("question", "answer"), ("context", "history", *_CHAT), _question_answer),
    Format("alpaca", ("instruction", "chosen"), ("input", "history", "system", "rejected"), _preferred("instruction")),
    Format("plain", ("prompt", "chosen"), ("history", "system", "tools", "rejected"), _preferred("prompt")),
    Format("plain", ("question", "chosen"), ("history", "system", "tools", "rejected"), _preferred("question")),
    Format("chat", ("chosen",), ("system", "tools", "rejected"), _chosen),
    Format("image", ("image", "label"), (), _image_label, closed=True),
)
# The formats of prompts without answers.
ASKED = tuple(form for form in (complete.without_answer() for complete in FORMATS) if form.required)
