"""Scores files that belong to one run, merged cell by cell; contradictions are refused."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from clora_cli.base.errors import MismatchError
from clora_cli.reporting.run_folders import NO_RUN_FOLDER, RunFolder, run_folder
from clora_cli.store.scores import Scores, TaskScore

__all__ = ["Draft", "collect_drafts", "folder_of"]

_Cells = dict[tuple[str, str], tuple[TaskScore, str]]  # (after, task) -> score, and the file it came from


@dataclass
class Draft:
    """A run whose cells are being collected.

    Attributes:
        files: Its scores files.
        order: The learned tasks, in order.
        cells: Each score and the file it came from, by the task learned last and the task scored.
        yardsticks: How each task is scored, and the file that says so.
    """

    files: Sequence[Scores]
    order: tuple[str, ...]
    cells: _Cells = field(default_factory=dict)
    yardsticks: dict[str, tuple[str, str]] = field(default_factory=dict)

    @property
    def first(self) -> Scores:
        """The first of its files; what all of them share can be read from it."""
        return self.files[0]

    @property
    def learned(self) -> bool:
        """Whether any row is of a model that has learned something."""
        return any(after for after, _ in self.cells)

    def matches(self, other: Draft) -> bool:
        """Tell whether both scored the same base model in the same way."""
        mine, theirs = self.first, other.first
        return (mine.base.fingerprint, mine.score) == (theirs.base.fingerprint, theirs.score)

    def add(self, after: str, task: str, cell: TaskScore, source: str) -> None:
        """Add a cell; it may be added twice, but neither with another value nor with another yardstick.

        Raises:
            MismatchError: If it contradicts a cell that is there.
        """
        self.check_yardstick(task, cell, source)
        self.yardsticks.setdefault(task, (cell.yardstick, source))
        earlier, earlier_source = self.cells.setdefault((after, task), (cell, source))
        if not math.isclose(earlier.value, cell.value, abs_tol=1e-6):
            stage = f"after learning {after}" if after else "of the base model"
            raise MismatchError(
                f"two scores of {task} {stage}: {earlier.value:g} in {earlier_source}, {cell.value:g} in {source}; "
                "leave one file out, or give each run a package folder of its own",
                code="scores-contradict",
            )

    def check_yardstick(self, task: str, cell: TaskScore, source: str) -> None:
        """Refuse a score that is measured in another way than the task's other scores.

        Raises:
            MismatchError: If it is.
        """
        yardstick, yardstick_source = self.yardsticks.get(task, (cell.yardstick, source))
        if yardstick != cell.yardstick:
            raise MismatchError(
                f"{task} is scored by {yardstick} in {yardstick_source} but by {cell.yardstick} in {source}; "
                "evaluate both in one way, or leave one file out",
                code="scored-differently",
            )


def collect_drafts(files: Sequence[Scores]) -> list[Draft]:
    """Merge the files of each run, runs in the order of their first file.

    Raises:
        MismatchError: If two files of a run disagree on a score, on an adapter or on how a task is scored.
    """
    return [_draft(files_of_run) for files_of_run in _by_run(files)]


def _by_run(files: Sequence[Scores]) -> list[list[Scores]]:
    """Group files by run; a short order joins every longer one that begins with it, as runs may share their start."""
    groups: dict[tuple[str, ...], dict[tuple[str, ...], list[Scores]]] = {}
    for file in files:
        route = json.dumps(file.settings.get("route", {}), sort_keys=True)
        key = (file.base.fingerprint, _home(file), file.method, file.combine, file.score, route)
        groups.setdefault(key, {}).setdefault(file.order, []).append(file)
    runs = []
    for orders in groups.values():
        longest = [order for order in orders if not any(_begins(other, order) for other in orders if other != order)]
        runs += [[file for order in orders if _begins(full, order) for file in orders[order]] for full in longest]
    return runs


def folder_of(file: Scores) -> RunFolder:
    """Return the run folder of a scores file, or else that of its package, which may be a list of adapters."""
    folder = run_folder(file.source.resolve()) if file.source else NO_RUN_FOLDER
    return folder if folder.name else run_folder(file.package.split(" ")[0])


def _home(file: Scores) -> str:
    """Return what a run's files have in common: its folder, or else the package as the user named it."""
    folder = folder_of(file)
    return str(Path(folder.root, folder.name, f"seed-{folder.seed}")) if folder.name else file.package


def _begins(order: Sequence[str], start: Sequence[str]) -> bool:
    return tuple(order[: len(start)]) == tuple(start)


def _draft(files: Sequence[Scores]) -> Draft:
    _check_adapters(files)
    draft = Draft(files, max((file.order for file in files), key=len))
    for file in files:
        for row in file.rows:
            for task, cell in row.scores.items():
                draft.add(row.after, task, cell, _name(file))
    return draft


def _check_adapters(files: Iterable[Scores]) -> None:
    first_use: dict[str, tuple[str, str]] = {}  # task -> digest of its adapter, and the file that has it
    for file in files:
        for adapter in (adapter for row in file.rows for adapter in row.adapters):
            digest, source = first_use.setdefault(adapter.task, (adapter.sha256, _name(file)))
            if digest != adapter.sha256:
                raise MismatchError(
                    f"{source} and {_name(file)} scored different adapters of {adapter.task} in one package "
                    f"'{file.package}'; evaluate again, or give each run a package folder of its own",
                    code="package-holds-two-runs",
                )


def _name(file: Scores) -> str:
    return str(file.source) if file.source else f"the scores of '{file.package}'"
