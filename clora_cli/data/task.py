"""A loaded task: examples in three splits, labels, a metric, and their source (layer L1).

Nothing here knows a file format or a tokenizer: readers make examples, :mod:`clora_cli.data.encode` uses them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from clora_cli.base.progress import Progress
from clora_cli.data.pictures import Picture

__all__ = ["METRICS", "Example", "Task", "TaskInfo", "tell_notes"]

METRICS = ("exact-match", "rouge-l", "sari", "code-similarity", "first-character")


@dataclass(frozen=True, slots=True)
class Example:
    """One prompt with its accepted answers.

    The prompt is ``head + body + cue``. When it is too long for a model, only the body is cut, from its left side, so
    that the instruction and the cue that asks for the answer are always seen.

    Attributes:
        head: Instruction, options, system text.
        body: The text itself.
        cue: The text that asks for the answer, such as ``Answer:`` on a line of its own.
        references: Accepted answers; at least one, except for prompts that are only routed. Training uses the first, scoring
            the best.
        turns: ``(role, text)`` of a conversation up to the answer, for tokenizers with a chat template; ``()`` for a
            plain prompt.
        muted: Indices of the assistant's turns that must not be learned.
        tooling: The parts of a conversation with tools that only a chat template can write, as JSON: ``tools``, their
            definitions, and ``messages``, from a turn's index to its entries beside role and text; empty without tools.
        picture: The image that a model sees in place of a text; the body is its name then, so that whatever compares rows by
            their texts compares images. None of a text.
    """

    head: str
    body: str
    cue: str
    references: tuple[str, ...]
    turns: tuple[tuple[str, str], ...] = ()
    muted: tuple[int, ...] = ()
    tooling: str = ""
    picture: Picture | None = field(default=None, compare=False)

    @property
    def size(self) -> int:
        """Characters of prompt and first answer, by which rows are known to be long or short before any tokenizer is."""
        texts = (self.head, self.body, self.cue, self.tooling, *self.references[:1], *(text for _, text in self.turns))
        return sum(map(len, texts))

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The conversation as a chat template takes it; a plain prompt is one turn of the user's."""
        turns = self.turns or (("user", self.prompt),)
        beside = json.loads(self.tooling)["messages"] if self.tooling else {}
        return [{"role": role, "content": text} | beside.get(str(i), {}) for i, (role, text) in enumerate(turns)]

    @property
    def tools(self) -> list[Any] | None:
        """The definitions of the tools that the assistant may call; None if it has none."""
        return (json.loads(self.tooling)["tools"] or None) if self.tooling else None

    @property
    def prompt(self) -> str:
        """The whole prompt as text."""
        return f"{self.head}{self.body}{self.cue}"


@dataclass(frozen=True)
class Task:
    """A task that can be trained on and scored.

    Attributes:
        name: Short and safe as a file name: ``mnli``, ``task1572``, ``reviews``.
        train: Training examples; empty when the source has only a test split.
        dev: Examples for model selection, never any of the test's; empty when none could be carved.
        test: Examples to score; empty when none could be kept out of training.
        labels: The closed set of answers in prompt order; ``()`` when answers are open-ended.
        metric: One of ``METRICS``.
        source: One line for people, such as ``CL_Benchmark NLI/MNLI``.
        template: Name of the prompt template, such as ``options``.
        notes: Faults that were found in the source, and what was done about each.
    """

    name: str
    train: tuple[Example, ...]
    dev: tuple[Example, ...]
    test: tuple[Example, ...]
    labels: tuple[str, ...]
    metric: str
    source: str
    template: str
    notes: tuple[str, ...] = ()

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 in hex over the three splits, the labels and the template; the same on every machine.

        Name, source and notes are left out: the same rows read from a file or from a folder are the same data.
        """
        digest = hashlib.sha256(_canonical([self.template, self.labels]))
        for split in (self.train, self.dev, self.test):
            digest.update(b"split")
            for e in split:
                # Rare entries are left out of rows without them, to keep the fingerprints from before they existed.
                rare = [list(e.muted), e.tooling] if e.muted or e.tooling else []
                digest.update(_canonical([e.head, e.body, e.cue, e.references, e.turns, *rare]))
        return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class TaskInfo:
    """A task that ``--data`` can name, described without reading any data.

    Attributes:
        name: The name that ``--data`` takes.
        family: Kind of task: ``NLI``, ``SC``, ``SuperNI``, or a bundled family.
        metric: One of ``METRICS``.
        labels: The closed set of answers, ``()`` when open-ended or known only from the data.
        summary: What is asked, in a few words.
        where: ``bundled``, a path, ``Hub <id>``, or why it cannot be found.
    """

    name: str
    family: str
    metric: str
    labels: tuple[str, ...]
    summary: str
    where: str


def _canonical(value: object) -> bytes:
    """Bytes that depend only on the value: JSON with ASCII escapes, independent of locale and encoding."""
    return json.dumps(value, separators=(",", ":")).encode("ascii") + b"\n"


def tell_notes(tasks: Iterable[Task], progress: Progress) -> None:
    """Tell what was noticed about tasks' rows as they were read, each note once."""
    for note in dict.fromkeys(f"note: {task.name}: {note}" for task in tasks for note in task.notes):
        progress.note(note)
