"""What the log of a unit tells of its commands (layer L3): which came last, how far it got, and the losses on its way."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from clora_cli.base.intake import read_bytes
from clora_cli.base.progress import ADVANCE_LINE
from clora_cli.recipes.recipe import folder_name

__all__ = ["COMMAND", "Advance", "Journal", "read_advance", "read_journal"]

COMMAND = "$ clora "
_ERROR = "error: "
_LOSS = re.compile(r"loss (?P<loss>\S+)")


@dataclass(frozen=True)
class Advance:
    """How far a command says that it is.

    Attributes:
        done: Of ``total``.
        total: Steps, rows or whatever it counts.
        status: What else it says, such as its losses.
    """

    done: int
    total: int
    status: str

    @property
    def loss(self) -> float | None:
        """The task's loss at this step; None where none is told."""
        match = _LOSS.match(self.status)
        try:
            return float(match["loss"]) if match else None
        except ValueError:
            return None


@dataclass
class Journal:
    """A unit's log.

    Attributes:
        kind: What the last command is: ``train``, ``stat-features`` or ``eval``; ``""`` without one.
        made: The name of the folder or file that it makes.
        advance: How far it got; None where it has told nothing of that.
        error: Why it failed; ``""`` if it did not say that it has.
        losses: Losses of each training by step, by the adapter folder's name; of a step told twice the later one counts.
    """

    kind: str = ""
    made: str = ""
    advance: Advance | None = None
    error: str = ""
    losses: dict[str, dict[int, float]] = field(default_factory=dict)


def read_advance(line: str) -> Advance | None:
    """Return what a line tells of a command's advance; None for any other line."""
    match = ADVANCE_LINE.fullmatch(line)
    if match is None or ":" in match["title"]:
        return None
    return Advance(int(match["done"]), int(match["total"]), match["status"] or "")


def read_journal(path: Path) -> Journal:
    """Read a log, which may be growing; an empty journal where there is none, or what is there is none."""
    journal = Journal()
    try:
        lines = read_bytes(path).decode("utf-8", "replace").splitlines()
    except OSError:
        return journal
    for line in lines:
        if line.startswith(COMMAND):
            journal.kind, journal.made = _named(line.removeprefix(COMMAND))
            journal.advance, journal.error = None, ""
        elif advance := read_advance(line):
            journal.advance = advance
            _note_loss(journal, advance)
        elif line.startswith(_ERROR):
            journal.error = line.removeprefix(_ERROR)
    return journal


def _note_loss(journal: Journal, advance: Advance) -> None:
    if journal.kind == "train" and (loss := advance.loss) is not None:
        # A training that began anew repeats what it had told after its last checkpoint.
        earlier = journal.losses.get(journal.made, {})
        kept = {step: value for step, value in earlier.items() if step < advance.done}
        journal.losses[journal.made] = kept | {advance.done: loss}


def _named(command: str) -> tuple[str, str]:
    """Return a command's kind, and the name of what it makes; both empty for one that no recipe has."""
    try:
        words = shlex.split(command)
    except ValueError:
        return "", ""
    if words[:1] == ["train-task"]:
        return "train", folder_name(_value(words, "--data"))
    if words[:1] == ["stat-features"]:
        return "stat-features", Path(words[1]).name if words[1:] else ""
    return ("eval", Path(_value(words, "--out")).name) if words[:1] == ["eval"] else ("", "")


def _value(words: Sequence[str], flag: str) -> str:
    return words[words.index(flag) + 1] if flag in words[:-1] else ""
