"""A file of prompts without answers as a task that a scorer can score (layer L1)."""

from __future__ import annotations

from clora_cli.base.errors import DataError
from clora_cli.data.columns import draft_of, prompt_of
from clora_cli.data.formats import Fields
from clora_cli.data.layouts import task_name
from clora_cli.data.splits import finish
from clora_cli.data.streams import row_file, stream_records
from clora_cli.data.task import Task
from clora_cli.data.texts import bare

__all__ = ["prompts_alone"]

_UNANSWERED = ("columns-not-recognised", "no-row-complete")


def prompts_alone(name: str, columns: Fields | None = None) -> Task | None:
    """Return the task of a file whose rows have prompts and no answers: all of them are test rows, without references.

    Args:
        name: The value of ``--data``.
        columns: Role to column name.

    Returns:
        The task; None where the name is that of no file of rows, or some row has an answer.

    Raises:
        DataError: The file cannot be read, or a row has no prompt either.
    """
    path = row_file(name)
    if path is None:
        return None
    rows = list(stream_records(path))
    source = f"file {path.name}"
    try:
        finish(draft_of(path.stem, source, {"test": rows}, columns))
    except DataError as error:
        if error.code not in _UNANSWERED:
            raise
    else:
        return None
    examples = tuple(prompt_of(row, columns) for row in rows)
    template = "chat" if any(example.turns for example in examples) else "plain"
    notes = (f"{len(rows)} rows without answers: a scorer scores them",)
    return Task(task_name(bare(path)), (), (), examples, (), "", source, template, notes)
