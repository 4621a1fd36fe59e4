"""Recognise what the columns of a row mean: prompts, instructions, labelled texts or conversations (layer L1).

==================================  =======================================================================
columns                             become
==================================  =======================================================================
messages, or conversations          chat: the last assistant turn that may be learned is the answer
instruction + output                alpaca: the instruction, then ``input`` (or ``context``) if there is one
prompt + completion                 plain (``response`` and ``answer`` are completions too); turns are chat
question + choices + answer         choice: the question, its choices under letters, ``Answer:``; the answer is a letter
text + label                        text-label: the text, then ``Answer:``; labels are those of the training rows
sentence1 + sentence2 + label       text-label of a pair; so are premise + hypothesis and their like
input + output                      plain
question + answer                   question-answer: ``context`` if there is one, the question, then ``Answer:``
chosen (+ rejected)                 the chosen answer, to the prompt, the instruction or the turns before it
image + label                       image: its bytes, its path, or the Hub's ``{bytes, path}``
==================================  =======================================================================

The first line of the table that fits wins. Other names are given by role: ``{"prompt": "question"}``. Where ``system``,
``history`` or ``tools`` hold something, instructions and prompts are the last turn of a conversation. A cell that
holds a list where one answer is expected holds several references. Where only the prompt matters, the answer's column
may be missing. A note names whatever is not used, with the number of its rows.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from shlex import quote

from clora_cli.base.errors import DataError, UnknownNameError
from clora_cli.data.choices import lettered
from clora_cli.data.class_names import are_named, told_of_spaces
from clora_cli.data.conversations import Found
from clora_cli.data.findings import Findings, unused_columns
from clora_cli.data.formats import ASKED, FORMATS, Fields, Format
from clora_cli.data.readers import Record
from clora_cli.data.roles import ANSWERS, ROLES, WIDER
from clora_cli.data.splits import Draft
from clora_cli.data.task import Example
from clora_cli.data.templates import earlier_answers
from clora_cli.data.values import as_flag, is_blank, whole_numbers

__all__ = ["draft_of", "prompt_of"]

_MOST_LABELS = 200  # more distinct labels than any classification benchmark has: the answers are open-ended


def draft_of(
    name: str,
    source: str,
    splits: Mapping[str, Sequence[Record]],
    columns: Fields | None = None,
    notes: Sequence[str] = (),
) -> Draft:
    """Return the draft of a task from the rows of its splits.

    Args:
        name: The task's short name.
        source: Where the rows come from, for messages.
        splits: Rows of ``train``, ``dev`` and ``test``, as far as they exist; at least one row.
        columns: Role to column name, for columns that are not named as in ``ROLES``.
        notes: Notes from the reader of the rows.

    Raises:
        DataError: The columns are not recognised, or a row lacks one of them.
        UnknownNameError: ``columns`` names a role that does not exist.
    """
    rows = [row for part in splits.values() for row in part]
    names = list(dict.fromkeys(key for row in rows for key in row.values))
    held = {key for row in rows for key, value in row.values.items() if not is_blank(value)} | set(
        (columns or {}).values()
    )
    kind, fields = _recognise(names, dict(columns or {}), source, FORMATS, held)
    fields = _telling(kind, fields, rows)
    notes = [*notes, *_wider(fields, columns or {})]
    labels: tuple[str, ...] = ()
    if kind.template == "choice":
        splits, labels, told_keys = lettered(splits, fields)
        notes += told_keys
    column = fields.get("label", "")
    notes += told_of_spaces(splits, column, source)
    findings = Findings()
    examples = {split: _examples(kind, fields, part, findings, split) for split, part in splits.items()}
    metric = "exact-match" if kind.closed else "rouge-l"
    template = "chat" if any(row.turns for part in examples.values() for row in part) else kind.template
    all_notes = [*notes, *findings.notes({split: len(part) for split, part in splits.items()})]
    all_notes += unused_columns((row.values for row in rows), set(fields.values()))
    draft = Draft(
        name, examples, metric, source, template, labels, closed=kind.closed, notes=all_notes, missing=findings.missing
    )
    if labels:
        draft.labels_from = "the choices"
    _write_whole_numbers(draft, apart=are_named(rows, column))
    _open_if_many(draft)
    return draft


def prompt_of(row: Record, columns: Fields | None = None) -> Example:
    """Return a row's prompt, which is the same with and without an answer beside it.

    Args:
        row: The row.
        columns: As for :func:`draft_of`.

    Returns:
        An example without references: it can be routed, but neither trained on nor scored. A conversation that ends with
        the assistant's turn loses that turn.

    Raises:
        DataError: The columns are not recognised, or the prompt is empty.
        UnknownNameError: ``columns`` names a role that does not exist.
    """
    known = _natural(list(row.values))
    # Of two prompts in a row, the one with an answer beside it is meant, as in a file with answers.
    formats = sorted(ASKED, key=lambda kind: not ANSWERS.intersection(kind.optional) <= set(known))
    named = {role: column for role, column in (columns or {}).items() if role not in ANSWERS}
    kind, fields = _recognise(list(row.values), named, row.where, formats, ())
    unasked = {*ANSWERS, "verdict", "rejected"}
    asked = {role: column for role, column in fields.items() if role not in unasked}
    example = _build(kind, _telling(kind, asked, [row]), row, Findings().of("row"))
    if not (example.head.strip() or example.body.strip()):
        what = "an image" if kind.template == "image" else "a text"
        raise DataError(f"{row.where}: the prompt is empty; give it {what} or remove the row", code="prompt-empty")
    return replace(example, references=())


def _telling(kind: Format, fields: Fields, rows: Sequence[Record]) -> dict[str, str]:
    """The fields without optional ones that hold nothing, and without a verdict column that holds no verdicts."""
    cells = {role: [row.values.get(fields[role]) for row in rows] for role in fields if role in kind.optional}
    empty = {role for role, values in cells.items() if all(is_blank(value) for value in values)}
    odd = set() if _are_verdicts(cells.get("verdict", ())) else {"verdict"}
    return {role: column for role, column in fields.items() if role not in empty | odd}


def _are_verdicts(values: Sequence[object]) -> bool:
    """Whether cells say yes or no; numbers do if both 0 and 1 occur, since one of them alone may be a class."""
    held = [value for value in values if not is_blank(value)]
    flags = {as_flag(value) for value in held}
    return None not in flags and (len(flags) > 1 or not any(str(value).strip()[:1] in "01" for value in held))


def _examples(kind: Format, fields: Fields, rows: Sequence[Record], findings: Findings, split: str) -> list[Example]:
    examples = []
    if split != "train" and (lacking := _lacking_answers(kind, fields, rows)):
        findings.of_all(split, len(rows), f"no '{lacking}': without answers they are not used")
        return []
    for row in rows:
        found = findings.of(split)
        example = _build(kind, fields, row, found)
        if "verdict" in fields and as_flag(row.values.get(fields["verdict"])) is False:
            found(f"answers that '{fields['verdict']}' calls bad are not learned")
            continue
        if earlier_answers(example):
            found("earlier answers stand in the prompt; --learn all learns them too")
        examples.append(example)
    return examples


def _lacking_answers(kind: Format, fields: Fields, rows: Sequence[Record]) -> str:
    """The answer column that is empty in all rows of a split, as in a test with secret answers; empty if there is none."""
    columns = [fields[role] for role in kind.required if role in ANSWERS and role in fields]
    return next((column for column in columns if not any(column in row.values for row in rows)), "")


def _recognise(
    found: Sequence[str], columns: dict[str, str], source: str, formats: Sequence[Format], held: Collection[str]
) -> tuple[Format, dict[str, str]]:
    """Choose the first format whose roles are all present: named by the caller, or in columns that hold something."""
    for role, column in columns.items():
        if role not in ROLES:
            raise UnknownNameError("column role", role, ROLES)
        if column not in found:
            raise DataError(
                f"{source}: no column '{column}' for {role}; it has {', '.join(found) or 'none'}", code="column-missing"
            )
    natural, wider = _natural(found) | columns, _natural(found, _ALL) | columns
    filled = _natural([column for column in found if column in held]) | columns
    stages = ((columns, natural), (filled, natural), (natural, natural), (wider, wider))
    for seen in (False, True):  # a text is taken before an image
        for available, known in stages:
            for kind in formats:
                named = set(columns) <= set(kind.roles) and ("image" in kind.roles) == seen
                if named and set(kind.required) <= set(available):
                    return kind, {role: known[role] for role in kind.roles if role in known}
    sets = "; ".join(dict.fromkeys(" + ".join(kind.required) for kind in formats))
    raise DataError(
        f"{source}: columns not recognised: {', '.join(found) or 'none'}; expected one of: {sets}; "
        f"say what yours are, such as {_such_as(found)}{_ALONE if _is_prompt(natural, formats) else ''}",
        code="columns-not-recognised",
    )


_ALONE = "; prompts without answers are scored by clora eval --scorer"


def _is_prompt(natural: Fields, formats: Sequence[Format]) -> bool:
    """Whether columns that no format with answers fits are those of prompts alone."""
    return formats is FORMATS and any(set(kind.required) <= set(natural) for kind in ASKED)


def _such_as(found: Sequence[str]) -> str:
    first, second = (*found, "answer")[:2] if found else ("question", "answer")

    def named(**roles: str) -> str:
        return " ".join(f"--columns {quote(f'{role}={column}')}" for role, column in roles.items())

    if len(found) == 1:
        return f"{named(prompt=first)} for prompts alone"
    if image := _natural(found, _ALL).get("image"):
        return f"{named(image=image, label=next(column for column in found if column != image))} for classes of images"
    return f"{named(text=first, label=second)} for labels, {named(prompt=first, completion=second)} for other answers"


_ALL = {role: (*names, *WIDER.get(role, ())) for role, names in ROLES.items()}


def _wider(fields: Fields, columns: Fields) -> list[str]:
    """A note on columns whose names may mean something else."""
    guessed = [
        f"{column} as {role}" for role, column in fields.items() if role not in columns and not _is_named(column, role)
    ]
    return [f"columns are read by their names: {', '.join(guessed)}; --columns says otherwise"] if guessed else []


def _is_named(column: str, role: str) -> bool:
    return column.strip().casefold() in ROLES[role]


def _natural(found: Sequence[str], roles: Mapping[str, Sequence[str]] = ROLES) -> dict[str, str]:
    """Role to column, by name, ignoring case."""
    folded = {column.strip().casefold(): column for column in reversed(found)}
    pairs = ((role, next((folded[name] for name in names if name in folded), None)) for role, names in roles.items())
    return {role: column for role, column in pairs if column is not None}


def _build(kind: Format, fields: Fields, row: Record, found: Found) -> Example:
    for role in kind.required:
        if role in fields and fields[role] not in row.values:
            raise DataError(
                f"{row.where}: no '{fields[role]}'; it has {', '.join(row.values) or 'no fields'}",
                code="row-field-missing",
            )
    return kind.build(row, fields, found)


def _write_whole_numbers(draft: Draft, *, apart: bool) -> None:
    """Write labels such as ``1.0`` as ``1``; where they are to stay apart, only if no two become one."""
    if not draft.closed:
        return
    found = {label for rows in draft.splits.values() for row in rows for label in row.references}
    written = whole_numbers(found)
    if apart and len({written.get(label, label) for label in found}) < len(found):
        return
    if written:
        for split, rows in draft.splits.items():
            draft.splits[split] = [
                replace(row, references=tuple(written.get(label, label) for label in row.references)) for row in rows
            ]
        pairs = ", ".join(f"{label} as {whole}" for label, whole in sorted(written.items()))
        draft.notes.append(f"labels are written as whole numbers: {pairs}")


def _open_if_many(draft: Draft) -> None:
    if not draft.closed or draft.template == "image":
        return
    rows = draft.splits.get("train") or next(iter(draft.splits.values()))
    distinct = len({row.references[0] for row in rows if row.references})
    if distinct > _MOST_LABELS:
        draft.closed = False
        draft.notes.append(f"{distinct} distinct labels: answers are taken as open-ended")
