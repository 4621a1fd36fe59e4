"""Scores of tasks under adapters, each pair measured once (layer L3)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

from clora_cli.base.errors import DataError
from clora_cli.base.legible import shortened
from clora_cli.base.progress import Advance, Progress
from clora_cli.data import Task
from clora_cli.data.tools import renderable
from clora_cli.evaluation.answers import generate, rank_labels
from clora_cli.evaluation.choosing import classify
from clora_cli.evaluation.combine import Combination
from clora_cli.evaluation.prompts import Before, Prompts
from clora_cli.evaluation.scored import scored_by
from clora_cli.evaluation.text import FORMULAS, Grading
from clora_cli.model.backbone import Backbone
from clora_cli.options import EvalOptions
from clora_cli.processes.meeting import joined
from clora_cli.processes.ranks import processes
from clora_cli.store.adapter_folder import AdapterFolder
from clora_cli.store.scores import TaskScore

__all__ = ["Bench", "encoded", "number_of"]

_NAMED = 4  # adapters at most whose names fit into a line of progress


class Bench:
    """Scores a task under a set of active adapters, each pair once.

    Args:
        combination: Puts adapters into the base model.
        prompts: The tasks' encoded prompts, by name: from ``encoded``.
        options: How.
        progress: Who to tell.
    """

    def __init__(
        self, combination: Combination, prompts: Mapping[str, Prompts], options: EvalOptions, progress: Progress
    ) -> None:
        self._combination, self._prompts, self._options, self._progress = combination, prompts, options, progress
        self._known: dict[tuple[str, tuple[Path, ...]], TaskScore] = {}

    @property
    def chooses(self) -> bool:
        """Whether the model is an encoder, which chooses among classes and has none before a task is learned."""
        return any(prompts.backbone.kind == "encoder" for prompts in self._prompts.values())

    def score(self, task: Task, adapters: Sequence[AdapterFolder]) -> TaskScore:
        """Return a task's score under these adapters; none for the base model alone."""
        key = (task.name, tuple(adapter.path for adapter in adapters))
        if key not in self._known:
            self._known[key] = self._measure(task, adapters)
        return self._known[key]

    def _measure(self, task: Task, adapters: Sequence[AdapterFolder]) -> TaskScore:
        prompts = self._prompts[task.name]
        several = f"{len(adapters)} adapters" if len(adapters) > _NAMED else "+".join(a.task for a in adapters)
        title = f"eval {task.name} with {several or 'the base model'}"
        prompts, before = self._combination.use(adapters, prompts)
        with self._progress.track(title, len(prompts.ids)) as advance:
            done = _of_all(advance, len(prompts.ids))
            labels = self._options.score == "labels"
            if labels or prompts.backbone.kind == "encoder":
                answers = joined(_chosen(prompts, task, done, before, labels=labels))
                done(len(prompts.ids))
                metric = "label-rank" if labels else task.metric
                return self._kept(_score(task, metric, answers, prompts, scorer=self._options.scorer), answers)
            cut: set[int] = set()
            answers = joined(generate(prompts, prompts.room, done, before, cut.update))
            done(len(prompts.ids))
            unended = 0 if task.labels else self._report_cut(title, _of_all_processes(cut, prompts), prompts)
            score = _score(task, task.metric, answers, prompts, unended, self._options.scorer)
            return self._kept(score, answers)

    def _kept(self, score: TaskScore, answers: Sequence[str]) -> TaskScore:
        """Return a score with the answers' numbers, if they were asked for."""
        return replace(score, answers=tuple(map(number_of, answers))) if self._options.answers else score

    def _report_cut(self, title: str, cut: int, prompts: Prompts) -> int:
        """Report and return how many answers were graded although they were cut off."""
        if cut:
            short = prompts.room < self._options.max_new_tokens
            reason = "the model has no more positions" if short else "--max-new-tokens allows no more"
            self._progress.note(
                f"note: {title}: {cut} of {len(prompts.ids)} answers were cut off after {prompts.room} tokens, as {reason}"
            )
        return cut


def number_of(answer: str) -> int:
    """Return a number for an answer, the same on every machine: the first 32 bits of its SHA-256."""
    return int.from_bytes(sha256(answer.encode("utf-8")).digest()[:4], "big")


def _chosen(
    prompts: Prompts, task: Task, done: Callable[[int], None], before: Before | None, *, labels: bool
) -> list[str]:
    """Return the answers of a model that chooses: among a task's labels, or among all classes of the adapters that act."""
    if prompts.backbone.kind == "encoder":
        return classify(prompts, task, done, before, own=labels)
    return rank_labels(prompts, task.labels, done, before)


def _of_all_processes(rows: Collection[int], prompts: Prompts) -> int:
    """Return the number of rows that some process has found."""
    return sum(map(bool, joined(["x" * (row in rows) for row in range(len(prompts.ids))])))


def _of_all(advance: Advance, total: int) -> Callable[[int], None]:
    """Return a function that takes this process's rows and advances by as many for every process, up to the total.

    Others' batches may be larger, so it is told the total once all are done.
    """
    reported = 0

    def done(rows: int) -> None:
        nonlocal reported
        if step := min(rows * processes(), total - reported):
            reported += step
            advance(step, "")

    return done


def _score(
    task: Task, metric: str, answers: Sequence[str], prompts: Prompts, cut: int = 0, scorer: str = ""
) -> TaskScore:
    references = (text for split in (task.train, task.dev, task.test) for row in split for text in row.references)
    grading = scored_by(scorer) if scorer else Grading.of(metric, task.labels, references)
    pairs = zip(answers, prompts.examples, strict=True)
    graded = [grading.grade(answer, row.references, row.prompt) for answer, row in pairs]
    hits = None if grading.graded else round(sum(graded))
    return TaskScore(
        scorer.partition(",")[0] or metric,
        grading.formula if scorer else FORMULAS.get(metric, grading.formula),
        100 * sum(graded) / len(graded),
        len(graded),
        hits,
        empty=sum(not answer for answer in answers),
        per_row=tuple(round(one, 6) if hits is None else int(one) for one in graded),
        normaliser=grading.normaliser,
        cut=cut,
    )


def encoded(backbone: Backbone, tasks: Sequence[Task], options: EvalOptions, progress: Progress) -> dict[str, Prompts]:
    """Encode the rows of tasks that are to be scored.

    Raises:
        DataError: If a task has none.
    """
    chosen = {}
    for task in tasks:
        rows = getattr(task, options.split)[: options.test_rows or None]
        examples, note = renderable(rows, backbone.tokenizer)
        if not examples:
            raise DataError(
                f"task '{task.name}' ({task.source}) has no {options.split} rows{note and f': {note}'}",
                code="task-has-no-rows",
            )
        if note:
            progress.note(f"note: {task.name}: {note}")
        limits = (options.max_length, options.batch_size, options.max_new_tokens)
        prompts = chosen[task.name] = Prompts.encode(backbone, task, examples, *limits)
        for remark in (*prompts.remarks(options.max_length), *_twins(task.labels, prompts)):
            progress.note(f"note: {task.name}: {remark}")
    if remark := backbone.tokens.disagreement:
        progress.note(f"note: {remark}")
    return chosen


def _twins(labels: Sequence[str], prompts: Prompts) -> Iterator[str]:
    """Yield a remark if two labels are the same tokens, as words that a tokenizer does not know are to it."""
    firsts: dict[tuple[int, ...], str] = {}
    for label, ids in zip(labels, prompts.labels, strict=False):  # an encoder has none
        if (first := firsts.setdefault(tuple(ids), label)) != label:
            model = prompts.backbone.tokens.model
            yield f"labels '{shortened(first)}' and '{shortened(label)}' are the same tokens to {model}, which cannot tell them apart"
            return
