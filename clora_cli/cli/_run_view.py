"""How a recipe's progress is shown (layer L4): a live table on a terminal, a line a piece of work elsewhere."""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from clora_cli.base.errors import ArtifactError
from clora_cli.base.legible import legible
from clora_cli.cli._output import SECONDS_BETWEEN_LINES, Terminal, _console
from clora_cli.model.half_precision import OF_MACHINE
from clora_cli.recipes.journal import read_advance
from clora_cli.recipes.running import Listener
from clora_cli.recipes.steps import Step, Unit
from clora_cli.recipes.workers import Outcome
from clora_cli.store.scores import read_scores

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["live_view", "plain_view"]

_DOING = {"train": "training", "stat-features": "taking features", "eval": "scoring"}
_DONE = {"train": "trained", "stat-features": "features taken", "eval": "scored"}


def _mean_score(step: Step) -> float | None:
    """Return the mean over the tasks learned so far, where the step has scored them."""
    if step.kind != "eval":
        return None
    try:
        scores = read_scores(step.made)
    except ArtifactError:
        return None
    cells = scores.rows[-1].scores if scores.rows else {}
    values = [cell.value for task, cell in cells.items() if task in scores.order]
    return sum(values) / len(values) if values else None


def _spoken(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s" if minutes else f"{rest} s"


class _Plain:
    """A line when a step begins or ends, and the command's own progress."""

    def __init__(self, terminal: Terminal) -> None:
        self._terminal = terminal
        self._now: dict[Unit, Step] = {}
        self._last: dict[Unit, float] = {}
        self._machine_told = False

    def begins(self, unit: Unit, step: Step) -> None:
        """Remember what is being done."""
        self._now[unit], self._last[unit] = step, -math.inf

    def says(self, unit: Unit, line: str) -> None:
        """Pass on progress, and warnings; what is so of the machine in every step, once."""
        if line.startswith(f"warning: {OF_MACHINE} "):
            if not self._machine_told:
                self._terminal.warn(line.removeprefix("warning: "))
            self._machine_told = True
        elif line.startswith("warning: "):
            self._terminal.warn(f"{self._place(unit)}: {line.removeprefix('warning: ')}")
        elif (advance := read_advance(line)) and advance.done != advance.total:
            now = time.monotonic()
            if now - self._last[unit] > SECONDS_BETWEEN_LINES:
                self._last[unit] = now
                self._terminal.note(f"{self._place(unit)}: {line}")

    def ends(self, unit: Unit, step: Step, outcome: Outcome) -> None:
        """Tell the end of a step."""
        score = _mean_score(step)
        what = _DONE[step.kind] if not outcome.code else f"{step.kind} ended with status {outcome.code}"
        mean = "" if score is None or outcome.code else f", mean {score:.1f}"
        self._terminal.note(f"{self._place(unit)}: {what} in {_spoken(outcome.seconds)}{mean}")

    def _place(self, unit: Unit) -> str:
        step = self._now[unit]
        return f"{unit.name}, {step.stage}/{len(unit.tasks)} {step.task}"


class _Row:
    """What the live table shows of one unit."""

    def __init__(self) -> None:
        self.step: Step | None = None
        self.progress, self.score, self.state, self.began = "", "", "waiting", 0.0


class _Live:
    """A table with a row for each unit; warnings go above it."""

    def __init__(self, units: Sequence[Unit], terminal: Terminal) -> None:
        self._rows = {unit: _Row() for unit in units}
        self._terminal, self._lock = terminal, threading.Lock()

    def begins(self, unit: Unit, step: Step) -> None:
        """Show what is being done."""
        with self._lock:
            row = self._rows[unit]
            row.step, row.progress, row.state, row.began = step, "", _DOING[step.kind], time.monotonic()

    def says(self, unit: Unit, line: str) -> None:
        """Show progress, and warnings."""
        if line.startswith("warning: "):
            self._terminal.warn(f"{unit.name}: {line.removeprefix('warning: ')}")
        elif advance := read_advance(line):
            with self._lock:
                progress = f"{advance.done}/{advance.total}  {advance.status}"
                self._rows[unit].progress = legible(progress.rstrip())

    def ends(self, unit: Unit, step: Step, outcome: Outcome) -> None:
        """Show the score, or that the step failed."""
        score = _mean_score(step)
        with self._lock:
            row = self._rows[unit]
            row.state, row.progress = ("failed", f"status {outcome.code}") if outcome.code else (_DONE[step.kind], "")
            row.score = row.score if score is None else f"{score:.1f}"
            row.began = 0.0

    def __rich__(self) -> Table:
        """Draw the table."""
        from rich.table import Table

        table = Table("method", "seed", "stage", "task", "now", "for", "mean score")
        with self._lock:
            for unit, row in self._rows.items():
                stage, task = (f"{row.step.stage}/{len(unit.tasks)}", row.step.task) if row.step else ("", "")
                since = _spoken(time.monotonic() - row.began) if row.began else ""
                now = f"{row.state} {row.progress}".strip()
                table.add_row(unit.entry.label, str(unit.seed), stage, task, now, since, row.score)
        return table


@contextlib.contextmanager
def plain_view(terminal: Terminal) -> Iterator[Listener]:
    """Give a listener that writes lines."""
    yield _Plain(terminal)


@contextlib.contextmanager
def live_view(units: Sequence[Unit], terminal: Terminal) -> Iterator[Listener]:
    """Give a listener that shows a table on the terminal."""
    from rich.live import Live

    view = _Live(units, terminal)
    with Live(view, console=_console(), refresh_per_second=2):
        yield view
