"""Prompts that begin with the task's and the dataset's name, as those of the O-LoRA family's scripts do (layer L1).

``--data mnli+names`` is mnli with ``Task:NLI`` and ``Dataset:MNLI`` on lines before its instruction. The template's name says so,
in manifests too. A model that is told which task it sees need not remember: results with and without do not compare.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from clora_cli.base.errors import DataError
from clora_cli.data.bundled import bundled_name
from clora_cli.data.known_tasks import FAMILY_INSTRUCTIONS, canonical
from clora_cli.data.task import Example, Task
from clora_cli.nano import task_set as tasks

__all__ = ["NAMED", "NAMES", "split_names", "with_names"]

NAMES = "+names"  # what asks for it
NAMED = "options-named"  # the template's name
# Datasets that CL_Benchmark spells otherwise than a task's canonical name.
_SPELLED = {
    "mnli": "MNLI",
    "cb": "CB",
    "rte": "RTE",
    "qqp": "QQP",
    "boolq": "BoolQA",
    "multirc": "MultiRC",
    "wic": "WiC",
}
_SPELLED |= {"copa": "COPA", "sst2": "SST-2", "imdb": "IMDB"}


def split_names(name: str) -> tuple[str, bool]:
    """Return what ``--data`` names without ``+names``, and whether that was there; only tasks known by name may have it."""
    plain = name.removesuffix(NAMES)
    return (plain, True) if plain != name and (bundled_name(plain) or canonical(plain)) else (name, False)


def with_names(task: Task, name: str) -> Task:
    """Return a task whose prompts begin with the names of its type and its dataset.

    Args:
        task: With prompts of the ``options`` template.
        name: What ``--data`` named, without ``+names``.

    Raises:
        DataError: If the task's published prompts have no such names.
    """
    kind, dataset = _names(name)
    if not kind or task.template != "options":
        raise DataError(
            f"'{name}{NAMES}': the published prompts of {task.name} carry no names; pass --data {name}",
            code="task-without-names",
        )
    head = f"Task:{kind}\nDataset:{dataset}\n"
    train, dev, test = (_headed(split, head) for split in (task.train, task.dev, task.test))
    note = f"prompts begin with the names of the task's type and dataset ({kind}, {dataset}), in training and at test"
    return replace(task, train=train, dev=dev, test=test, template=NAMED, notes=(*task.notes, note))


def _names(name: str) -> tuple[str, str]:
    """Return the names of a task's type and of its dataset; empty where the published prompts have none."""
    if bundled := bundled_name(name):
        return tasks.task(bundled).family, bundled
    known = canonical(name)
    if known is None or known.family not in FAMILY_INSTRUCTIONS:
        return "", ""
    return known.family, _SPELLED.get(known.name, known.name)


def _headed(examples: Sequence[Example], head: str) -> tuple[Example, ...]:
    return tuple(replace(example, head=head + example.head) for example in examples)
