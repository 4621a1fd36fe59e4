"""Rows that a model made, as texts, as examples and as lines of a file (layer L1)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clora_cli.base.errors import DataError
from clora_cli.data.conversations import read_turns
from clora_cli.data.encode import Kind, encode_prompt
from clora_cli.data.readers import Record, read_records
from clora_cli.data.rows import Rows
from clora_cli.data.task import Example, Task
from clora_cli.data.templates import chat
from clora_cli.data.texts import bare
from clora_cli.data.tokens import Tokens

__all__ = [
    "CHAT",
    "MadeRow",
    "answered",
    "asked",
    "distinct",
    "fitting",
    "made_task",
    "question_of",
    "read_made",
    "to_lines",
]

CHAT = "chat"  # the template of conversations
_TASK, _PROMPT, _ANSWER, _TURNS = "task", "prompt", "completion", "messages"


@dataclass(frozen=True)
class MadeRow:
    """A row that a model made: a question and its answer."""

    question: str
    answer: str


def question_of(example: Example) -> str:
    """Return what a row asks as one text: its prompt, of a conversation the last turn."""
    return example.turns[-1][1] if example.turns else example.prompt


def fitting(example: Example, tokenizer: Any, *, kind: Kind, max_length: int, chat: bool = False) -> str:
    """Return what a row asks as one text, cut as its prompt is: without its body's start, or that of the conversation's last turn.

    Args:
        example: The row.
        tokenizer: A Transformers tokenizer, or the ``Tokens`` of a loaded model.
        kind: ``causal`` or ``seq2seq``.
        max_length: Most tokens of the prompt.
        chat: Use the tokenizer's chat template.

    Raises:
        DataError: Instruction and cue alone do not fit.
    """
    whole, kept = (
        encode_prompt(example, tokenizer, kind=kind, max_length=most, chat=chat) for most in (None, max_length)
    )
    if len(kept) >= len(whole):
        return question_of(example)
    tokens = Tokens.of(tokenizer)
    return tokens.text(tokens.ids(question_of(example), special=False)[-len(kept) :] if example.turns else kept)


def asked(question: str, template: str) -> Example:
    """Return a question as a prompt of a template, without an answer."""
    return chat((("user", question),), ()) if template == CHAT else Example("", question, "", ())


def answered(row: MadeRow, template: str) -> Example:
    """Return a row that a model made as an example of a template."""
    answers = (row.answer,)
    return chat((("user", row.question),), answers) if template == CHAT else Example("", row.question, "", answers)


def distinct(texts: Iterable[str], barred: Iterable[str] = ()) -> list[str]:
    """Return the texts that are not empty and none of the barred ones, each once; case and white space tell no two apart.

    Args:
        texts: The texts, of which the first of equals stays.
        barred: Texts that must not be among them.
    """
    seen = {"", *map(_form, barred)}
    kept = []
    for text in texts:
        if (form := _form(text)) not in seen:
            seen.add(form)
            kept.append(text)
    return kept


def _form(text: str) -> str:
    return " ".join(text.casefold().split())


def made_task(name: str, rows: Sequence[Example], template: str, source: str) -> Task:
    """Return rows that a model made as a task of training rows alone."""
    return Task(name, tuple(rows), (), (), (), "rouge-l", source, template)


def to_lines(task: str, rows: Iterable[MadeRow], template: str) -> str:
    """Return rows as JSON lines that ``--data`` reads, each with its task's name."""
    return "".join(json.dumps(_line(task, row, template), ensure_ascii=False) + "\n" for row in rows)


def _line(task: str, row: MadeRow, template: str) -> dict[str, Any]:
    if template != CHAT:
        return {_TASK: task, _PROMPT: row.question, _ANSWER: row.answer}
    turns = (("user", row.question), ("assistant", row.answer))
    return {_TASK: task, _TURNS: [{"role": role, "content": text} for role, text in turns]}


def read_made(path: Path) -> list[Rows]:
    """Return the rows of a file of ``to_lines`` by task, in the order of their first rows.

    Rows without a task's name are those of a task that is named like the file.

    Raises:
        DataError: The file cannot be read, or a row has no prompt and answer.
    """
    found: dict[tuple[str, str], list[Example]] = {}
    for record in read_records(path):
        template = CHAT if _TURNS in record.values else "plain"
        name = record.values.get(_TASK, bare(path))
        if not isinstance(name, str):
            raise DataError(f"{record.where}: '{_TASK}' is no text; name the row's task", code="made-row-malformed")
        found.setdefault((name, template), []).append(_example(record, template))
    tasks = (made_task(name, rows, template, f"file {path.name}") for (name, template), rows in found.items())
    return [Rows(task, "train", task.train) for task in tasks]


def _example(record: Record, template: str) -> Example:
    values = record.values
    if template == CHAT:
        turns = read_turns(values[_TURNS], record.where, _TURNS, lambda *unused: None)
        if len(turns) > 1 and turns[-1].role == "assistant":
            return chat(tuple((turn.role, turn.text) for turn in turns[:-1]), (turns[-1].text,))
    elif isinstance(prompt := values.get(_PROMPT), str) and isinstance(answer := values.get(_ANSWER), str):
        return answered(MadeRow(prompt, answer), template)
    raise DataError(
        f"{record.where}: a row of a memory has '{_PROMPT}' and '{_ANSWER}', or '{_TURNS}' that end with the assistant's; "
        "clora synthesize writes such rows",
        code="made-row-malformed",
    )
