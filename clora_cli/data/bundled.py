"""The tasks that come with the package, as drafts (layer L1)."""

from __future__ import annotations

from clora_cli.data.known_tasks import canonical, fold
from clora_cli.data.splits import Draft
from clora_cli.data.task import TaskInfo
from clora_cli.data.templates import options, options_head
from clora_cli.nano import task_set as tasks

__all__ = ["bundled_infos", "bundled_name", "category_of", "read_bundled", "stand_in_for"]

# Task types of the public benchmark, and the bundled task most like each.
_STAND_INS = {"NLI": "inference", "QQP": "paraphrase", "SC": "sentiment-binary", "BoolQA": "yes-no", "MultiRC": "yes-no",
              "WiC": "paraphrase", "COPA": "inference"}  # fmt: skip

_FOLDED = {fold(known): known for known in tasks.ORDER}


def bundled_name(name: str) -> str | None:
    """Return the bundled task that a spelling names, or ``None``."""
    return _FOLDED.get(fold(name))


def category_of(name: str) -> str:
    """Return a task's kind, such as ``Dialog`` or ``TC``, as the papers group tasks; ``""`` for one that is not known by name."""
    if bundled := bundled_name(name):
        return tasks.task(bundled).family
    known = canonical(name)
    return known.category or known.family if known else ""


def stand_in_for(family: str, summary: str) -> str:
    """Return the bundled task that is most like a known task.

    Args:
        family: The known task's.
        summary: What it asks, in a few words.
    """
    if family == "SC" and "stars" in summary:
        return "sentiment-stars"
    sentiment = "sentiment-binary" if any(word in summary for word in ("sentiment", "emotion")) else "topics-news"
    return _STAND_INS.get(family, sentiment)


def read_bundled(name: str) -> Draft:
    """Return the draft of a bundled task, by its exact name."""
    task = tasks.task(name)
    head = options_head(task.instruction, task.labels)
    splits = {
        split: [options(head, text, (label,)) for text, label in tasks.rows(name, split)]
        for split in ("train", "dev", "test")
    }
    return Draft(name, splits, "exact-match", "bundled", "options", task.labels, "the task's labels", closed=True)


def bundled_infos() -> list[TaskInfo]:
    """Return one line per bundled task, in the training order of the default recipe."""
    infos = []
    for name in tasks.ORDER:
        task = tasks.task(name)
        infos.append(TaskInfo(name, task.family, "exact-match", task.labels, task.summary, "bundled"))
    return infos
