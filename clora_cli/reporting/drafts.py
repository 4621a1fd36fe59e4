"""Scores files that belong to one run, cell by cell: what must agree, and what is refused."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from clora_cli.base.errors import MismatchError
from clora_cli.reporting.run_folders import NOWHERE, Place, place
from clora_cli.store.scores import Scores, TaskScore

__all__ = ["Draft", "collect_drafts", "home", "place_of"]

_Cells = dict[tuple[str, str], tuple[TaskScore, str]]  # (after, task) -> score, and the file it came from


@dataclass
class Draft:
    """A run while its cells are collected."""

    files: Sequence[Scores]
    order: tuple[str, ...]
    cells: _Cells = field(default_factory=dict)
    yardsticks: dict[str, tuple[str, str]] = field(default_factory=dict)  # task -> how it is scored, and the file

    @property
    def first(self) -> Scores:
        """The first of its files: what all of them share."""
        return self.files[0]

    @property
    def learned(self) -> bool:
        """Whether any row is of a model that has learned something."""
        return any(after for after, _ in self.cells)

    def matches(self, other: Draft) -> bool:
        """Tell whether the two scored one base model in one way."""
        mine, theirs = self.first, other.first
        return (mine.base.fingerprint, mine.score) == (theirs.base.fingerprint, theirs.score)

    def add(self, after: str, task: str, cell: TaskScore, source: str) -> None:
        """Enter one cell; the same one twice is fine, another value is not, nor another yardstick for the task."""
        self.check_yardstick(task, cell, source)
        self.yardsticks.setdefault(task, (cell.yardstick, source))
        known, where = self.cells.setdefault((after, task), (cell, source))
        if not math.isclose(known.value, cell.value, abs_tol=1e-6):
            stage = f"after learning {after}" if after else "of the base model"
            raise MismatchError(
                f"two scores of {task} {stage}: {known.value:g} in {where}, {cell.value:g} in {source}; "
                "leave one file out, or give each run a package folder of its own"
            )

    def check_yardstick(self, task: str, cell: TaskScore, source: str) -> None:
        """Refuse a score that is not measured as the task's other scores are."""
        mine = cell.yardstick
        known, where = self.yardsticks.get(task, (mine, source))
        if known != mine:
            raise MismatchError(
                f"{task} is scored by {known} in {where} but by {mine} in {source}; "
                "evaluate both in one way, or leave one file out"
            )


def collect_drafts(files: Sequence[Scores]) -> list[Draft]:
    """Bring files of one run together, in the order in which runs are first met.

    Raises:
        MismatchError: If two files of a run disagree on an entry, on an adapter or on how a task is scored.
    """
    return [_draft(group) for group in _groups(files)]


def _groups(files: Sequence[Scores]) -> list[list[Scores]]:
    """Group files by run; a short order joins every longer one that begins with it (runs may share their start)."""
    groups: dict[tuple[str, ...], dict[tuple[str, ...], list[Scores]]] = {}
    for file in files:
        route = json.dumps(file.settings.get("route", {}), sort_keys=True)
        key = (file.base.fingerprint, home(file), file.method, file.combine, file.score, route)
        groups.setdefault(key, {}).setdefault(file.order, []).append(file)
    result = []
    for orders in groups.values():
        longest = [order for order in orders if not any(_begins(other, order) for other in orders if other != order)]
        result += [[file for order in orders if _begins(full, order) for file in orders[order]] for full in longest]
    return result


def place_of(file: Scores) -> Place:
    """Return where a run lies: where its scores file is, else as its package was named, which may be a list of adapters."""
    here = place(file.source.resolve()) if file.source else NOWHERE
    return here if here.name else place(file.package.split(" ")[0])


def home(file: Scores) -> str:
    """Return what a run's files have in common: its folder, or else the package as the user named it."""
    where = place_of(file)
    return str(Path(where.root, where.name, f"seed-{where.seed}")) if where.name else file.package


def _begins(order: Sequence[str], start: Sequence[str]) -> bool:
    return tuple(order[: len(start)]) == tuple(start)


def _draft(group: Sequence[Scores]) -> Draft:
    _check_adapters(group)
    draft = Draft(group, max((file.order for file in group), key=len))
    for file in group:
        for row in file.rows:
            for task, cell in row.scores.items():
                draft.add(row.after, task, cell, _name(file))
    return draft


def _check_adapters(group: Iterable[Scores]) -> None:
    known: dict[str, tuple[str, str]] = {}
    for file in group:
        for adapter in (adapter for row in file.rows for adapter in row.adapters):
            digest, where = known.setdefault(adapter.task, (adapter.sha256, _name(file)))
            if digest != adapter.sha256:
                raise MismatchError(
                    f"{where} and {_name(file)} scored different adapters of {adapter.task} in one package "
                    f"'{file.package}'; evaluate again, or give each run a package folder of its own"
                )


def _name(file: Scores) -> str:
    return str(file.source) if file.source else f"the scores of '{file.package}'"
