"""Which inputs a feature distribution is made of (layer L3): whose data, and which of its rows."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clora_cli.data import Example, Task
from clora_cli.errors import DataError, OptionError, did_you_mean
from clora_cli.package import AdapterFolder

__all__ = ["Rows", "assign_data"]


@dataclass(frozen=True, eq=False)
class Rows:
    """Inputs of one task that go into a distribution.

    Attributes:
        task: The task.
        split: Which split they are from.
        examples: The inputs, at least one.
        limit: How many were asked for; 0 if all are in.
        seed: What they were drawn by; None if all are in.
    """

    task: Task
    split: str
    examples: Sequence[Example]
    limit: int = 0
    seed: int | None = None

    @classmethod
    def draw(cls, task: Task, split: str, limit: int, seed: int) -> Rows:
        """Take the rows of a task's split, or so many of them, drawn as ``clora train-task --train-rows`` draws.

        Args:
            task: The task.
            split: ``train``, ``dev`` or ``test``.
            limit: How many at most; 0 for all.
            seed: What to draw by.

        Raises:
            DataError: If there are none.
        """
        rows: Sequence[Example] = getattr(task, split)
        if not rows:
            raise DataError(f"task '{task.name}' ({task.source}) has no {split} rows; pass another --split")
        if not 0 < limit < len(rows):
            return cls(task, split, rows)
        chosen = sorted(random.Random(seed).sample(range(len(rows)), limit))
        return cls(task, split, [rows[index] for index in chosen], limit, seed)

    def recorded(self, private: bool) -> dict[str, Any]:
        """Return what the file says of them; a private release tells no checksum, by which data could be recognised."""
        entry = {"name": self.task.name, "split": self.split, "rows": len(self.examples)}
        return {
            **entry,
            "fingerprint": None if private else self.task.fingerprint,
            "limit": self.limit,
            "seed": self.seed,
        }


def assign_data(members: Sequence[AdapterFolder], given: Sequence[str]) -> list[list[str]]:
    """Say which data goes to which adapter.

    One adapter takes all that is given. Of several, each takes what is given as ``TASK=DATA`` under its name, or what is
    called like it; an adapter that nothing is given for takes the data that it was trained on. An adapter's names are its
    path, its task, its folder's name, and its data's names.

    Args:
        members: The adapters, at least one.
        given: What ``--data`` gives.

    Returns:
        For each adapter what ``load_task`` takes, at least one name.

    Raises:
        OptionError: If data fits no adapter or an adapter has no data.
    """
    found: list[list[str]] = [[] for _ in members]
    for text in given:
        owner, equals, data = text.partition("=")
        owners = _owners(members, owner) if equals else []
        if not owners:
            owners, data = (list(members) if len(members) == 1 else _owners(members, text, Path(text).stem)), text
        if not owners:
            names = sorted({member.task for member in members})
            raise OptionError(
                f"--data {text} fits none of these adapters{did_you_mean(owner, names)}; "
                f"give TASK=DATA with a TASK of {', '.join(names)}"
            )
        for member in owners:
            found[members.index(member)].append(data)
    for member, names in zip(members, found, strict=True):
        names[:] = dict.fromkeys(names or member.data_names)
        if not names:
            mend = "--data" if len(members) == 1 else f"--data {member.task}=DATA"
            raise OptionError(f"adapter {member.path} does not say what it was trained on; pass {mend}")
    return found


def _owners(members: Sequence[AdapterFolder], *names: str) -> list[AdapterFolder]:
    """Return the adapters with one of these names: the nearest kind of name that fits decides."""
    wanted = {name.casefold() for name in names}
    for kind in (lambda m: [str(m.path)], lambda m: [m.task], lambda m: [m.path.name], lambda m: m.data_names):
        if fitting := [member for member in members if wanted & {name.casefold() for name in kind(member)}]:
            return fitting
    return []
