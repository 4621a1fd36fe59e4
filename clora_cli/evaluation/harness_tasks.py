"""Tasks for lm-evaluation-harness: the same prompts, scored as ``clora eval`` scores them (layer L3).

A task becomes four kinds of files in a folder for ``lm_eval --include_path``: its YAML, its rows by split, what its scores depend
on, and a Python file of three lines by which the harness finds this module.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from clora_cli.base.errors import ArtifactError, DataError
from clora_cli.base.files import read_json, to_json, write_text
from clora_cli.base.records import any_text, listed, one_of, wrong
from clora_cli.data import METRICS, Example, Task
from clora_cli.evaluation.text import Grading
from clora_cli.options import EvalOptions

__all__ = ["scorer", "write_harness_task"]

_SPLITS = {"training": "train", "validation": "dev", "test": "test"}  # the harness's names, and clora's
_FACTS = {"metric": one_of(*METRICS), "labels": listed(any_text), "references": listed(any_text)}
_CODE = '''"""How lm-evaluation-harness scores {name}: as `clora eval` does."""
from clora_cli.evaluation.harness_tasks import scorer
score = scorer(__file__)
'''


def write_harness_task(task: Task, folder: Path) -> str:
    """Write a task for lm-evaluation-harness.

    Args:
        task: The task; its conversations become texts, which ``--apply_chat_template`` makes turns of.
        folder: Where to; files of the same task are replaced.

    Returns:
        The task's name there: ``clora_`` and its own in ASCII, with ``_`` for hyphens; a name in which more has to go ends in a
        checksum of the whole, so that no two tasks write the same files.

    Raises:
        DataError: If it has no test rows, or they are images.
        CloraError: If a file cannot be written.
    """
    if not task.test:
        raise DataError(f"task '{task.name}' ({task.source}) has no test rows to score", code="task-has-no-rows")
    if task.template == "image":
        raise DataError(
            f"task '{task.name}' ({task.source}) has images, and lm-evaluation-harness scores texts; score it with `clora eval`",
            code="harness-needs-texts",
        )
    name, place = _named(task.name), folder.resolve()
    splits = {theirs: getattr(task, ours) for theirs, ours in _SPLITS.items() if getattr(task, ours)}
    files = {theirs: place / f"{name}.{_SPLITS[theirs]}.jsonl" for theirs in splits}
    for theirs, path in files.items():
        write_text(path, _lines(splits[theirs]))
    references = sorted({text for rows in splits.values() for row in rows for text in row.references})
    write_text(
        place / f"{name}.json", to_json({"metric": task.metric, "labels": list(task.labels), "references": references})
    )
    write_text(place / f"{name}.py", _CODE.format(name=task.name))
    write_text(place / f"{name}.yaml", _yaml(name, task.metric, files))
    return name


def scorer(path: str) -> Callable[[Mapping[str, Any], Sequence[str]], dict[str, float]]:
    """Return the function that scores one answer of an exported task.

    Args:
        path: The task's Python file, beside what ``write_harness_task`` wrote.

    Raises:
        ArtifactError: If the file beside it is missing or damaged.
    """
    place = Path(path).with_suffix(".json")
    facts = read_json(place, "what the scores depend on")
    if key := wrong(facts, _FACTS):
        raise ArtifactError(
            f"{place} is damaged ({key}); write the task again: `clora tasks NAME --lm-eval FOLDER`",
            code="file-damaged",
        )
    grading = Grading.of(facts["metric"], facts["labels"], facts["references"])
    key = _metric(facts["metric"])

    def score(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
        return {key: grading.grade(results[0].strip(), doc["references"], doc["prompt"])}

    return score


def _named(task: str) -> str:
    """Return a task's name as one of a Python module, which the harness needs it to be."""
    plain = f"clora_{re.sub(r'[^0-9A-Za-z]', '_', task)}"
    lossless = re.fullmatch(r"[0-9A-Za-z-]*", task)
    return plain if lossless else f"{plain}_{sha256(task.encode()).hexdigest()[:6]}"


def _yaml(name: str, metric: str, files: Mapping[str, Path]) -> str:
    """Return the YAML; written by hand for its tag, which names the function that scores."""
    splits = "".join(f"{theirs}_split: {_SPLITS[theirs]}\n" for theirs in files)
    rows = "".join(f"    {_SPLITS[theirs]}: {json.dumps(str(path))}\n" for theirs, path in files.items())
    return (
        f"task: {name}\ndataset_path: json\ndataset_kwargs:\n  data_files:\n{rows}{splits}output_type: generate_until\n"
        f'doc_to_text: prompt\ndoc_to_target: answer\ntarget_delimiter: ""\nprocess_results: !function {name}.score\n'
        f"generation_kwargs:\n  until: []\n  do_sample: false\n  max_gen_toks: {EvalOptions().max_new_tokens}\n"
        f"metric_list:\n  - metric: {_metric(metric)}\n    aggregation: mean\n    higher_is_better: true\n"
        "metadata:\n  version: 1.0\n"
    )


def _lines(rows: Iterable[Example]) -> str:
    docs = ({"prompt": row.prompt, "answer": row.references[0], "references": list(row.references)} for row in rows)
    return "".join(f"{json.dumps(doc, ensure_ascii=False)}\n" for doc in docs)


def _metric(name: str) -> str:
    return name.replace("-", "_")
