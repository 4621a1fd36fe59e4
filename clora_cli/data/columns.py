"""What the columns of a row mean: prompts, instructions, labelled texts or conversations (layer L1).

============================  =============================================================================
columns                       become
============================  =============================================================================
messages, or conversations    chat: the last assistant turn is the answer, the turns before it the prompt
instruction + output          alpaca: the instruction, then ``input`` (or ``context``) if there is one
prompt + completion           plain (``response`` and ``answer`` are completions too); lists of turns are chat
text + label                  text-label: the text, then ``Answer:``; labels are those of the training rows
input + output                plain
============================  =============================================================================

The first line of the table that fits wins. Other names are given by role: ``{"prompt": "question"}``. A cell that
holds a list where one answer is expected holds several references. Where only the prompt matters, the answer's column
may be missing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from clora_cli.data.conversations import Turns, read_turns, split_answer
from clora_cli.data.files import Record
from clora_cli.data.splits import Draft
from clora_cli.data.task import Example
from clora_cli.data.templates import OPTIONS_CUE, alpaca, chat
from clora_cli.data.values import as_answers, as_text
from clora_cli.errors import DataError, UnknownNameError

__all__ = ["ROLES", "draft_of", "prompt_of"]

ROLES = {
    "messages": ("messages",),
    "conversations": ("conversations", "conversation"),
    "instruction": ("instruction",),
    "prompt": ("prompt",),
    "completion": ("completion", "response", "answer"),
    "text": ("text", "sentence"),
    "label": ("label",),
    "input": ("input", "context"),
    "output": ("output", "response"),
    "system": ("system",),
}
_ANSWERS = frozenset({"completion", "label", "output"})  # roles that a prompt does without
_MOST_LABELS = 200  # more distinct labels than any classification benchmark has: the answers are open-ended

_Fields = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class _Format:
    """A set of roles and how a row of it becomes an example."""

    template: str
    required: tuple[str, ...]
    optional: tuple[str, ...]
    build: Callable[[Record, _Fields], Example]
    closed: bool = False


def draft_of(name: str, source: str, splits: Mapping[str, Sequence[Record]], columns: _Fields | None = None) -> Draft:
    """Return the draft of a task from the rows of its splits.

    Args:
        name: The task's short name.
        source: Where the rows come from, for messages.
        splits: Rows of ``train``, ``dev`` and ``test``, those there are; at least one row.
        columns: Role to column name, for columns that are not named as in :data:`ROLES`.

    Raises:
        DataError: The columns are not recognised, or a row lacks one of them.
        UnknownNameError: ``columns`` names a role that does not exist.
    """
    found = list(dict.fromkeys(key for rows in splits.values() for row in rows for key in row.values))
    kind, fields = _recognise(found, dict(columns or {}), source, _FORMATS)
    examples = {split: [_build(kind, fields, row) for row in rows] for split, rows in splits.items()}
    metric = "exact-match" if kind.closed else "rouge-l"
    template = "chat" if any(row.turns for rows in examples.values() for row in rows) else kind.template
    draft = Draft(name, examples, metric, source, template, closed=kind.closed)
    _open_if_many(draft)
    return draft


def prompt_of(row: Record, columns: _Fields | None = None) -> Example:
    """Return a row's prompt, which is the same with and without an answer beside it.

    Args:
        row: The row.
        columns: As for :func:`draft_of`.

    Returns:
        An example without references: it can be routed, neither trained on nor scored. A conversation that ends with
        the assistant's turn is taken without it.

    Raises:
        DataError: The columns are not recognised, or the prompt is empty.
        UnknownNameError: ``columns`` names a role that does not exist.
    """
    known = _natural(list(row.values))
    # Two prompts in a row: that beside its answer is meant, as in a file with answers.
    formats = sorted(_ASKED, key=lambda kind: not _ANSWERS.intersection(kind.optional) <= set(known))
    named = {role: column for role, column in (columns or {}).items() if role not in _ANSWERS}
    kind, fields = _recognise(list(row.values), named, row.where, formats)
    example = _build(kind, {role: column for role, column in fields.items() if role not in _ANSWERS}, row)
    if not (example.head.strip() or example.body.strip()):
        raise DataError(f"{row.where}: the prompt is empty; give it a text or remove the row")
    return example


def _recognise(
    found: Sequence[str], columns: dict[str, str], source: str, formats: Sequence[_Format]
) -> tuple[_Format, dict[str, str]]:
    """Choose the first format whose roles are all there, those that were named by the caller before others."""
    for role, column in columns.items():
        if role not in ROLES:
            raise UnknownNameError("column role", role, ROLES)
        if column not in found:
            raise DataError(f"{source}: no column '{column}' for {role}; it has {', '.join(found) or 'none'}")
    natural = _natural(found) | columns
    for available in (columns, natural):
        for kind in formats:
            named = set(columns) <= {*kind.required, *kind.optional}
            if named and set(kind.required) <= set(available):
                roles = [role for role in (*kind.required, *kind.optional) if role in natural]
                return kind, {role: natural[role] for role in roles}
    sets = "; ".join(dict.fromkeys(" + ".join(kind.required) for kind in formats))
    raise DataError(
        f"{source}: columns not recognised: {', '.join(found) or 'none'}; expected one of: {sets}; "
        "name yours with --columns, such as prompt=question completion=answer"
    )


def _natural(found: Sequence[str]) -> dict[str, str]:
    """Role to column, by name, without regard to case."""
    folded = {column.strip().casefold(): column for column in reversed(found)}
    pairs = ((role, next((folded[name] for name in names if name in folded), None)) for role, names in ROLES.items())
    return {role: column for role, column in pairs if column is not None}


def _build(kind: _Format, fields: _Fields, row: Record) -> Example:
    for role in kind.required:
        if fields[role] not in row.values:
            raise DataError(f"{row.where}: no '{fields[role]}'; it has {', '.join(row.values) or 'no fields'}")
    return kind.build(row, fields)


def _text(row: Record, fields: _Fields, role: str) -> str:
    column = fields.get(role)
    return as_text(row.values.get(column), row.where, column) if column else ""


def _answers(row: Record, fields: _Fields, role: str) -> tuple[str, ...]:
    column = fields.get(role)
    return as_answers(row.values[column], row.where, column) if column else ()


def _turns(row: Record, fields: _Fields) -> Turns:
    column = fields.get("messages") or fields["conversations"]
    turns = read_turns(row.values[column], row.where, column)
    system = _text(row, fields, "system")
    if system.strip() and turns and turns[0][0] != "system":
        turns = (("system", system), *turns)
    return turns


def _chat(row: Record, fields: _Fields) -> Example:
    return chat(*split_answer(_turns(row, fields)))


def _asked_chat(row: Record, fields: _Fields) -> Example:
    return _unanswered(_turns(row, fields))


def _unanswered(turns: Turns) -> Example:
    return chat(turns[:-1] if turns and turns[-1][0] == "assistant" else turns, ())


def _alpaca(row: Record, fields: _Fields) -> Example:
    answers = tuple(answer.strip() for answer in _answers(row, fields, "output"))
    return alpaca(_text(row, fields, "instruction"), _text(row, fields, "input"), answers)


def _plain(row: Record, fields: _Fields, prompt: str, answer: str) -> Example:
    if isinstance(row.values[fields[prompt]], list):
        turns = read_turns(row.values[fields[prompt]], row.where, fields[prompt])
        if answer not in fields:
            return _unanswered(turns)
        value = row.values[fields[answer]]
        last = read_turns(value, row.where, fields[answer])[-1:] if isinstance(value, list) else ()
        return chat(turns, tuple(text for _, text in last) or _answers(row, fields, answer))
    return Example("", _text(row, fields, prompt), "", _answers(row, fields, answer))


def _prompt_completion(row: Record, fields: _Fields) -> Example:
    return _plain(row, fields, "prompt", "completion")


def _input_output(row: Record, fields: _Fields) -> Example:
    return _plain(row, fields, "input", "output")


def _text_label(row: Record, fields: _Fields) -> Example:
    labels = tuple(label.strip() for label in _answers(row, fields, "label"))
    return Example("", _text(row, fields, "text").strip(), OPTIONS_CUE, labels)


def _open_if_many(draft: Draft) -> None:
    if not draft.closed:
        return
    rows = draft.splits.get("train") or next(iter(draft.splits.values()))
    distinct = len({row.references[0] for row in rows if row.references})
    if distinct > _MOST_LABELS:
        draft.closed = False
        draft.notes.append(f"{distinct} distinct labels: answers are taken as open-ended")


_FORMATS = (
    _Format("chat", ("messages",), ("system",), _chat),
    _Format("chat", ("conversations",), ("system",), _chat),
    _Format("alpaca", ("instruction", "output"), ("input",), _alpaca),
    _Format("plain", ("prompt", "completion"), (), _prompt_completion),
    _Format("text-label", ("text", "label"), (), _text_label, closed=True),
    _Format("plain", ("input", "output"), (), _input_output),
)
# What is left of them without an answer.
_ASKED = (
    _Format("chat", ("messages",), ("system",), _asked_chat),
    _Format("chat", ("conversations",), ("system",), _asked_chat),
    _Format("alpaca", ("instruction",), ("input", "output"), _alpaca),
    _Format("plain", ("prompt",), ("completion",), _prompt_completion),
    _Format("text-label", ("text",), ("label",), _text_label),
    _Format("plain", ("input",), ("output",), _input_output),
)
