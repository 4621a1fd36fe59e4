"""Tasks of lm-evaluation-harness, where it is installed and their data are at hand (layer L1)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from clora_cli.base.errors import DataError, did_you_mean
from clora_cli.data.findings import few
from clora_cli.data.layouts import task_name
from clora_cli.data.splits import Draft
from clora_cli.data.task import Example
from clora_cli.data.texts import library

__all__ = ["PREFIX", "read_harness"]

PREFIX = "lm-eval:"
_SPLITS = {"train": "training_docs", "dev": "validation_docs", "test": "test_docs"}
_READ = ("generate_until", "multiple_choice", "loglikelihood")


def read_harness(name: str, include: Path | None = None) -> Draft:
    """Return the draft of a task of lm-evaluation-harness: its own prompts without examples in them, its answers by text.

    Of multiple choices the right one's text is the answer; the harness ranks the choices, ``clora eval`` compares what is generated.

    Args:
        name: The task's name there.
        include: A folder of further tasks, as ``lm_eval --include_path`` takes it.

    Raises:
        DataError: It is not installed, has no such task, cannot load it, or the task's answers are of a kind not read here.
    """
    try:
        from lm_eval.tasks import TaskManager
    except ImportError as error:
        raise DataError(
            f"--data {PREFIX}{name}: lm-evaluation-harness is not installed; pip install lm-eval",
            code="harness-missing",
        ) from error
    manager = TaskManager(include_path=str(include) if include else None)
    if name not in manager.all_subtasks:
        if name in manager.all_tasks:
            inside = few(each for each in manager.all_subtasks if each.startswith(f"{name}_"))
            kind, hint = "a group: name one task", f", such as one of {inside}" if inside else ""
        else:
            kind, hint = "no task of lm-evaluation-harness", did_you_mean(name, manager.all_subtasks)
        raise DataError(f"--data {PREFIX}{name} is {kind}{hint}; `lm_eval ls tasks` lists them", code="data-not-found")
    with library(f"lm-eval {name}", "a task that can be loaded", "see that its data are in the cache, or go online"):
        task = manager.load([name])["tasks"][name]
        if task.OUTPUT_TYPE not in _READ:
            raise DataError(
                f"--data {PREFIX}{name}: its answers are {task.OUTPUT_TYPE}, and only {', '.join(_READ)} are read",
                code="harness-task-not-read",
            )
        splits = {
            ours: list(_examples(task, getattr(task, theirs)()))
            for ours, theirs in _SPLITS.items()
            if _has(task, theirs)
        }
    return Draft(task_name(name), splits, _metric(task.config), f"lm-eval {name}", "plain")


def _has(task: Any, docs: str) -> bool:
    return bool(getattr(task, f"has_{docs}")())


def _examples(task: Any, docs: Iterable[Mapping[str, Any]]) -> Iterable[Example]:
    description = task.config.description or ""
    for doc in docs:
        answers = tuple(_answers(task, doc))
        prompt = task.doc_to_text(doc)
        if isinstance(prompt, str) and all(isinstance(answer, (str, int, float)) for answer in answers):
            yield Example(description, prompt, "", tuple(str(answer).strip() for answer in answers))


def _answers(task: Any, doc: Mapping[str, Any]) -> Iterable[Any]:
    target = task.doc_to_target(doc)
    choices = task.doc_to_choice(doc) if task.OUTPUT_TYPE == "multiple_choice" else []
    for one in target if isinstance(target, list) else [target]:
        yield choices[one] if isinstance(one, int) and choices else one


def _metric(config: Any) -> str:
    names = " ".join(str(entry.get("metric", "")) for entry in config.metric_list or ())
    return "rouge-l" if "rouge" in names else "exact-match"
