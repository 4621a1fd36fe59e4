"""Limits for CI: the least mean score, and the most that a task may have lost (layer L3)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from clora_cli.base.errors import MismatchError, OptionError
from clora_cli.data import Task
from clora_cli.options import EvalOptions
from clora_cli.store.scores import ScoreRow, Scores, TaskScore, read_scores

__all__ = ["Loss", "broken_limits", "check_baselines", "check_limits", "losses", "read_baselines"]


@dataclass(frozen=True)
class Loss:
    """How the score of a task learned earlier has changed.

    Attributes:
        task: The task.
        best: Its best earlier score, percent.
        where: The file or stage of that score.
        now: Its score now, percent.
        rows: The score of each row at its best, in [0, 1]; empty in files without them.
    """

    task: str
    best: float
    where: str
    now: float
    rows: tuple[float, ...] = ()

    @property
    def points(self) -> float:
        """Best minus now: percent points, negative if the task gained. One term of the metric ``forgetting-rate``."""
        return self.best - self.now


def check_limits(limits: Mapping[str, float | None], options: EvalOptions) -> None:
    """Refuse limits that no score could break, or that nothing is scored for.

    Raises:
        OptionError: If a limit is no finite number, or general ability is limited but not probed.
    """
    for name, limit in limits.items():
        if limit is not None and not math.isfinite(limit):  # nothing is below NaN: the limit would never be broken
            flag = f"--{name.replace('_', '-')}"
            raise OptionError(f"{flag} {limit}: give a number of percent points", code="option-out-of-range")
    if limits["max_general_loss"] is not None and not options.retention:
        raise OptionError(
            "--max-general-loss needs a probe of general ability: pass --retention general", code="option-missing"
        )


def read_baselines(
    paths: Sequence[Path], max_forgetting: float | None, matrix: bool, tasks: Sequence[Task]
) -> list[Scores]:
    """Read the baselines, and refuse before any scoring what could not be compared afterwards.

    Args:
        paths: Scores files of earlier evaluations.
        max_forgetting: The limit that they are for, percent points; None for none.
        matrix: Whether earlier stages are scored too.
        tasks: What will be scored.

    Raises:
        OptionError: If the limit has nothing to compare with, or the files no limit to serve.
        ArtifactError: If a file is missing or damaged.
    """
    if max_forgetting is None and paths:
        raise OptionError("--baseline is what --max-forgetting compares with; pass both", code="option-missing")
    if max_forgetting is not None and not (paths or matrix):
        raise OptionError(
            "--max-forgetting needs earlier scores: pass --baseline with a scores file, or --matrix",
            code="option-missing",
        )
    if max_forgetting is not None and max_forgetting < 0:
        raise OptionError(
            f"--max-forgetting {max_forgetting:g}: give a number of percent points, 0 or more",
            code="option-out-of-range",
        )
    earlier = [read_scores(path) for path in paths]
    check_baselines(earlier, [task.name for task in tasks])
    return earlier


def check_baselines(baselines: Sequence[Scores], tasks: Sequence[str]) -> None:
    """Refuse baselines that an evaluation on some tasks cannot be compared with, before it starts.

    Raises:
        OptionError: If a file has no score of a learned task, or one of a task that will not be scored.
    """
    for baseline in baselines:
        learned = list(dict.fromkeys(task for row in baseline.rows for task in _learned(baseline, row)))
        if not learned:
            raise OptionError(
                f"--baseline {baseline.source} holds no score of a learned task; give that of a package",
                code="baseline-without-scores",
            )
        if missing := [task for task in learned if task not in tasks]:
            raise OptionError(
                f"--baseline {baseline.source} has {', '.join(missing)}, which this evaluation does not score; "
                f"add --data {missing[0]}",
                code="baseline-task-not-scored",
            )


def losses(scores: Scores, baselines: Sequence[Scores] = ()) -> list[Loss]:
    """Return how the last score of each task that was learned before compares with its best earlier score.

    Earlier rows are those of the baselines and, of these scores, all but the last; a row counts for the tasks that it has
    learned, as in the metric ``forgetting-rate``. The row of a merged adapter, which has no order, counts for all tasks.

    Args:
        scores: The scores whose last row is judged.
        baselines: Earlier scores.

    Raises:
        MismatchError: If a task was scored in another way.
    """
    now = scores.rows[-1].scores
    by_task: dict[str, Loss] = {}
    earlier = [(file, row) for file in baselines for row in file.rows] + [(scores, row) for row in scores.rows[:-1]]
    for file, row in earlier:
        where = str(file.source) if file is not scores else f"stage {row.stage}"
        for task in _learned(file, row):
            if task in now:
                _check_yardstick(task, row.scores[task], now[task], where)
                loss = Loss(task, row.scores[task].value, where, now[task].value, row.scores[task].per_row)
                by_task[task] = max(loss, by_task.get(task, loss), key=lambda candidate: candidate.best)
    return list(by_task.values())


def broken_limits(
    scores: Scores,
    baselines: Sequence[Scores] = (),
    *,
    fail_under: float | None = None,
    max_forgetting: float | None = None,
    max_general_loss: float | None = None,
) -> list[str]:
    """Return which limits are not met, as sentences.

    Args:
        scores: The scores whose last row is judged.
        baselines: Earlier scores.
        fail_under: The least mean score over tasks, percent.
        max_forgetting: The most that any task may have lost since its best earlier score, percent points.
        max_general_loss: The most that any probe of general ability may have lost since the base model, percent points.

    Raises:
        MismatchError: If a task was scored in another way.
    """
    last = scores.rows[-1].scores.values()
    mean = sum(score.value for score in last) / len(last)
    broken = []
    if fail_under is not None and mean < fail_under:
        broken.append(f"the mean score {mean:.2f} is below --fail-under {fail_under:g}")
    if max_forgetting is not None and (lost := losses(scores, baselines)):
        worst = max(lost, key=lambda loss: loss.points)
        # Scores are shares of rows: an excess below 1e-9 is rounding.
        if worst.points > max_forgetting + 1e-9:
            broken.append(
                f"{worst.task} lost {worst.points:.2f} points, from {worst.best:.2f} ({worst.where}) to {worst.now:.2f}: "
                f"more than --max-forgetting {max_forgetting:g}"
            )
    if max_general_loss is not None:
        broken += _general_losses(scores.rows[-1], max_general_loss)
    return broken


def _general_losses(row: ScoreRow, limit: float) -> Iterator[str]:
    for probe, kept in row.retention.items():
        if kept.before and kept.after and kept.before.value - kept.after.value > limit + 1e-9:
            yield (
                f"general ability by '{probe}' went from {kept.before.value:.2f} to {kept.after.value:.2f} "
                f"({kept.lost} rows lost, {kept.gained} gained): more than --max-general-loss {limit:g}"
            )


def _learned(file: Scores, row: ScoreRow) -> list[str]:
    """Return the scored tasks that a row has learned: none for the base model, all for a merged adapter."""
    if not row.stage:
        return []
    learned = {adapter.task for adapter in row.adapters}
    merged = not set(row.scores) & set(file.order)
    return [task for task in row.scores if merged or task in learned]


def _check_yardstick(task: str, before: TaskScore, now: TaskScore, where: str) -> None:
    if before.yardstick != now.yardstick:
        raise MismatchError(
            f"{task} was scored by {before.metric} on {before.total} rows in {where}, now by {now.metric} on {now.total}"
            f"{_normalisers(before, now)}; evaluate in the same way, or drop --max-forgetting",
            code="scored-differently",
        )


def _normalisers(before: TaskScore, now: TaskScore) -> str:
    old, new = before.graded_by, now.graded_by
    return f", by {new} instead of {old}" if old != new else ""
