"""Which rows a broken limit is about (layer L3): the tasks, labels and lengths that score worst, or have lost most."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from clora_cli.base.errors import LimitError
from clora_cli.data import Example, Task
from clora_cli.reporting.limits import Loss, broken_limits, losses
from clora_cli.store.scores import Scores

__all__ = ["Slice", "Verdict", "broken_slices", "judge", "slices_of"]

_PARTS = 4  # of a task's rows by length: quarters
_FEW = 4  # rows of a slice, below which a share says little
_NAMED = 10  # rows that a message names
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Slice:
    """Some rows of a task.

    Attributes:
        task: The task.
        by: ``task`` for all rows, ``label`` for those of one right answer, ``length`` for a quarter by words of the prompt.
        name: The label, or the lengths, such as ``12-30 words``; empty for all rows.
        rows: The numbers of its rows within the scored split, from 0.
        score: Mean score now, percent.
        before: Mean score at the task's best earlier one, percent; None where that is not known.
        worse: The numbers of the rows that are wrong now, or of those that were better before where that is known.
    """

    task: str
    by: str
    name: str
    rows: tuple[int, ...]
    score: float
    before: float | None
    worse: tuple[int, ...]

    @property
    def title(self) -> str:
        """What it is, for people."""
        return self.task if self.by == "task" else f"{self.task}, {self.by} {self.name!r}"

    def breaks(self, fail_under: float | None, max_forgetting: float | None) -> bool:
        """Tell whether it alone would break a limit."""
        low = fail_under is not None and self.score < fail_under - _ROUNDING
        lost = max_forgetting is not None and self.before is not None
        return low or (lost and self._lost > (max_forgetting or 0.0) + _ROUNDING)

    @property
    def told(self) -> str:
        """Its scores and its worst rows, in one line."""
        ids = ", ".join(map(str, self.worse[:_NAMED])) + (" …" if len(self.worse) > _NAMED else "")
        since = "" if self.before is None else f", {self.before:.2f} before"
        return f"{self.title}: {self.score:.2f}{since} on {len(self.rows)} rows{f'; rows {ids}' if ids else ''}"

    @property
    def _lost(self) -> float:
        return 0.0 if self.before is None else self.before - self.score


@dataclass(frozen=True)
class Verdict:
    """Whether scores meet limits, and what a broken limit is about.

    Attributes:
        broken: The limits that are not met, as sentences.
        slices: All slices.
        failed: Those of them that would break a limit alone, worst first; none where all limits are met.
    """

    broken: Sequence[str]
    slices: Sequence[Slice]
    failed: Sequence[Slice]

    @property
    def told(self) -> str:
        """The broken limits and the worst slice of each kind, in one line."""
        first: Mapping[str, Slice] = {one.by: one for one in reversed(self.failed)}
        worst = "; ".join(first[by].told for by in ("task", "label", "length") if by in first)
        return "; ".join([*self.broken, *([f"worst: {worst}"] if worst else [])])

    def check(self) -> None:
        """Check that all limits are met.

        Raises:
            LimitError: If one is broken.
        """
        if self.broken:
            raise LimitError(self.told, code="limit-broken")


def judge(
    scores: Scores, tasks: Sequence[Task], split: str, earlier: Sequence[Scores], limits: Mapping[str, float | None]
) -> Verdict:
    """Judge the last row of scores by limits.

    Args:
        scores: What was scored.
        tasks: The tasks, with their rows.
        split: The split that was scored.
        earlier: Earlier scores.
        limits: The limits of ``broken_limits``, by name.

    Raises:
        MismatchError: As ``broken_limits``.
    """
    broken = broken_limits(scores, earlier, **limits)
    slices = slices_of(scores, tasks, split, losses(scores, earlier))
    low, lost = limits.get("fail_under"), limits.get("max_forgetting")
    return Verdict(broken, slices, broken_slices(slices, low, lost) if broken else [])


def slices_of(scores: Scores, tasks: Sequence[Task], split: str, earlier: Sequence[Loss] = ()) -> list[Slice]:
    """Return the slices of every task that the last row of scores has, tasks first, with how they scored before.

    Labels and lengths are told where each scored row is known: not where rows could not be rendered or scored.

    Args:
        scores: What was scored.
        tasks: The tasks, with their rows.
        split: The split that was scored.
        earlier: From ``losses``: the best earlier scores.
    """
    best = {loss.task: loss.rows for loss in earlier}
    found = []
    for task in tasks:
        cell = scores.rows[-1].scores.get(task.name)
        if cell is None or not cell.per_row:
            continue
        before = best.get(task.name, ())
        before = before if len(before) == len(cell.per_row) else ()
        rows = getattr(task, split)[: len(cell.per_row)]
        whole = len(rows) == len(cell.per_row) and not cell.dropped
        for by, name, numbers in _parts(task, rows if whole else (), len(cell.per_row)):
            found.append(_slice((task.name, by, name), numbers, cell.per_row, before))
    return found


def broken_slices(
    slices: Sequence[Slice], fail_under: float | None = None, max_forgetting: float | None = None
) -> list[Slice]:
    """Return the slices that a limit is about, those that have lost most, or else score lowest, first."""
    broken = [one for one in slices if one.breaks(fail_under, max_forgetting)]
    return sorted(broken, key=lambda one: ((one.score - one.before) if one.before is not None else 0.0, one.score))


def _parts(task: Task, rows: Sequence[Example], count: int) -> Iterator[tuple[str, str, tuple[int, ...]]]:
    yield "task", "", tuple(range(count))
    if task.labels:
        for label in task.labels:
            numbers = tuple(i for i, row in enumerate(rows) if row.references and row.references[0] == label)
            if len(numbers) >= _FEW:
                yield "label", label, numbers
    lengths = {i: len(row.prompt.split()) for i, row in enumerate(rows)}
    ordered = sorted(lengths, key=lambda i: (lengths[i], i))
    size = -(-len(ordered) // _PARTS)
    if size >= _FEW:
        for start in range(0, len(ordered), size):
            part = ordered[start : start + size]
            yield "length", f"{lengths[part[0]]}-{lengths[part[-1]]} words", tuple(sorted(part))


def _slice(
    name: tuple[str, str, str], numbers: tuple[int, ...], now: Sequence[float], before: Sequence[float]
) -> Slice:
    score = 100 * sum(now[i] for i in numbers) / len(numbers)
    was = 100 * sum(before[i] for i in numbers) / len(numbers) if before else None
    fell = tuple(i for i in numbers if (now[i] < before[i] if before else now[i] < 1))
    return Slice(*name, numbers, score, was, fell)
