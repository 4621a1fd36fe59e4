"""The scores file: the score of each stage of a run on each task (layer L1).

``clora eval`` writes it, ``clora report`` reads it. One file holds one or more rows of the stage x task matrix: row
``stage`` is the package after learning its ``stage``-th task, row 0 the base model alone. All scores are percentages.
A file with any wrong entry is refused; the message names the entry and what to do.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from clora_cli.base.errors import ArtifactError
from clora_cli.base.files import read_json, to_json, write_text
from clora_cli.base.legible import is_legible
from clora_cli.base.records import Check, each, listed, name, number, scalar, whole, wrong

__all__ = [
    "SCHEMA",
    "AdapterRef",
    "BaseRef",
    "ScoreRow",
    "Scores",
    "TaskScore",
    "read_scores",
    "write_scores",
]

SCHEMA = "clora.scores/1"
_SETTINGS: Mapping[str, Check] = {
    "test_rows?": whole(),
    "split?": name,
    "max_length?": whole(),
    "max_new_tokens?": whole(),
    "dtype?": name,
    "quantize?": name,
    "route?": each(scalar),
    "calibrate?": listed(name),
}
# The normaliser of files that do not name one.
_FIRST = {"exact-match": "english/1", "label-rank": "english/1", "rouge-l": "english-words/1"}
_ROUNDING = (
    0.06  # percentage points: rounding to one decimal place may separate a value from its correct / total by this much
)


@dataclass(frozen=True)
class BaseRef:
    """The base model that was scored.

    Attributes:
        id: Its name, for people.
        fingerprint: The fingerprint of its content, for comparisons.
    """

    id: str
    fingerprint: str


@dataclass(frozen=True)
class AdapterRef:
    """An adapter that was scored.

    Attributes:
        task: Its task.
        sha256: The checksum of its weights.
    """

    task: str
    sha256: str


@dataclass(frozen=True)
class TaskScore:
    """One cell of the matrix.

    Attributes:
        metric: The score's name, such as ``exact-match`` or ``rouge-l``.
        formula: How it was computed, in words; two scores compare only if their formulas are equal.
        value: Percent, in [0, 100].
        total: Number of test rows that were scored, at least 1.
        correct: Number of rows that were right; null for a graded metric such as Rouge-L.
        empty: Number of scored rows whose prediction was empty.
        dropped: Number of test rows left out for having no usable reference; not part of ``total``.
        per_row: The score of each row, in [0, 1], in the task's order; their mean is ``value / 100``. Empty in files without
            them.
        normaliser: Name and version of the text normalisation; empty in files without it.
        cut: Number of graded answers that were cut off before they ended.
    """

    metric: str
    formula: str
    value: float
    total: int
    correct: int | None = None
    empty: int = 0
    dropped: int = 0
    per_row: tuple[float, ...] = ()
    normaliser: str = ""
    cut: int = 0

    @property
    def graded_by(self) -> str:
        """The normaliser; for a file that does not name one, the normaliser of its time."""
        return self.normaliser or _FIRST.get(self.metric, "none")

    @property
    def yardstick(self) -> str:
        """What two scores of a task must share to be comparable, in words."""
        return f"{self.metric} ({self.formula}; normaliser {self.graded_by}) on {self.total} rows"

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON object; entries of later versions are left out if they are empty."""
        content = asdict(self)
        return {key: value for key, value in content.items() if value or key not in {"normaliser", "cut"}}


@dataclass(frozen=True)
class ScoreRow:
    """One stage.

    Attributes:
        stage: How many tasks had been learned; 0 for the base model alone.
        after: The task that was learned last; empty for the base model alone.
        adapters: The adapters up to this stage.
        scores: Task to score.
    """

    stage: int
    after: str
    adapters: tuple[AdapterRef, ...]
    scores: Mapping[str, TaskScore]


@dataclass(frozen=True)
class Scores:
    """The contents of one scores file.

    Attributes:
        base: The base model.
        package: The package (or adapter) that was scored, as the user named it; empty for the base model alone.
        method: The method that trained it.
        combine: How adapters were combined: ``sum``, ``last``, ``task-id``, ``none``, …
        score: How answers were scored: ``generate`` or ``labels``.
        order: Tasks of the package's members in the order they were learned, without repetition.
        rows: The rows; each row's ``after`` is in ``order``.
        source: The file that this was read from, for messages; not part of the file.
        settings: Other settings that decided the scores: rows, lengths, types, routing; empty in files without them.
    """

    base: BaseRef
    package: str
    method: str
    combine: str
    score: str
    order: tuple[str, ...]
    rows: tuple[ScoreRow, ...]
    source: Path | None = field(default=None, compare=False)
    settings: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON object that is the file's content."""
        content = asdict(self)
        del content["source"]
        for row, kept in zip(content["rows"], self.rows, strict=True):
            row["scores"] = {task: score.to_dict() for task, score in kept.scores.items()}
        return {"schema": SCHEMA, **content, "order": list(self.order)}


def read_scores(path: str | Path) -> Scores:
    """Read and check a scores file.

    Raises:
        ArtifactError: If it is missing, damaged, of an unknown version, or contradicts itself.
    """
    path = Path(path)
    return _scores(path, read_json(path, "scores file"))


def write_scores(scores: Scores, path: str | Path) -> None:
    """Write a scores file atomically; the parent folder is made.

    Raises:
        ArtifactError: If the scores could not be read back, such as a value outside [0, 100].
        CloraError: If the file cannot be written.
    """
    path = Path(path)
    _scores(path, json.loads(json.dumps(scores.to_dict())))  # only what can be read again is written
    write_text(path, to_json(scores.to_dict()))


@dataclass(frozen=True)
class _Node:
    """A JSON object with its place in the file, to name file and place in every error."""

    path: Path
    place: str
    data: dict[str, Any]

    def fault(self, key: str, problem: str) -> NoReturn:
        place = f"{self.place}.{key}".strip(".")
        raise ArtifactError(
            f"{self.path}: {place} {problem}; write it again with `clora eval … -o {self.path}`",
            code="scores-file-damaged",
        )

    def text(self, key: str) -> str:
        value = self.data.get(key)
        if isinstance(value, str) and not is_legible(value):
            self.fault(key, "has letters that cannot be shown")
        return value if isinstance(value, str) else self.fault(key, "must be a string")

    def count(self, key: str) -> int:
        value = self.data.get(key)
        if whole()(value):
            return int(value)  # type: ignore[arg-type]
        self.fault(key, "must be a whole number, 0 or more")

    def percent(self, key: str) -> float:
        value = self.data.get(key)
        if number(0, 100)(value):
            return float(value)  # type: ignore[arg-type]
        self.fault(key, "must be a percentage in [0, 100]")

    def items(self, key: str) -> list[Any]:
        value = self.data.get(key)
        return value if isinstance(value, list) else self.fault(key, "must be a list")

    def node(self, key: str, value: object) -> _Node:
        if not isinstance(value, dict):
            self.fault(key, "must be an object")
        return _Node(self.path, f"{self.place}.{key}".strip("."), value)

    def nodes(self, key: str) -> list[_Node]:
        return [self.node(f"{key}[{index}]", value) for index, value in enumerate(self.items(key))]


def _scores(path: Path, content: dict[str, Any]) -> Scores:
    schema = content.get("schema")
    if not isinstance(schema, str) or not schema.startswith("clora.scores/"):
        raise ArtifactError(
            f"{path}: not a scores file (no schema '{SCHEMA}'); give the file that `clora eval` wrote",
            code="not-a-scores-file",
        )
    if schema != SCHEMA:
        raise ArtifactError(
            f"{path}: schema '{schema}' is not '{SCHEMA}'; upgrade clora or run `clora eval` again",
            code="format-not-supported",
        )
    top = _Node(path, "", content)
    base = top.node("base", content.get("base"))
    order = _order(top)
    if not top.items("rows"):
        top.fault("rows", "is empty")
    return Scores(
        base=BaseRef(base.text("id"), base.text("fingerprint")),
        package=top.text("package"),
        method=top.text("method"),
        combine=top.text("combine"),
        score=top.text("score"),
        order=order,
        rows=tuple(_row(node, order) for node in top.nodes("rows")),
        settings=_settings(top),
        source=path,
    )


def _order(top: _Node) -> tuple[str, ...]:
    order = top.items("order")
    if not all(name(task) and task for task in order):
        top.fault("order", "must be a list of task names")
    if len(set(order)) < len(order):
        top.fault("order", "names a task twice")
    return tuple(order)


def _settings(top: _Node) -> dict[str, Any]:
    settings = top.node("settings", top.data.get("settings", {}))
    if odd := wrong(settings.data, _SETTINGS):
        settings.fault(odd, "has a wrong value")
    return settings.data


def _row(node: _Node, order: Sequence[str]) -> ScoreRow:
    stage, after = node.count("stage"), node.text("after")
    if (stage == 0) != (after == "") or (after and after not in order):
        node.fault("after", f"'{after}' does not fit stage {stage} of the order {', '.join(order) or '(empty)'}")
    adapters = tuple(AdapterRef(each.text("task"), each.text("sha256")) for each in node.nodes("adapters"))
    scores = node.node("scores", node.data.get("scores"))
    cells = {task: _task(scores.node(task, cell)) for task, cell in scores.data.items()}
    return ScoreRow(stage, after, adapters, cells)


def _task(node: _Node) -> TaskScore:
    total, value = node.count("total"), node.percent("value")
    correct = None if node.data.get("correct") is None else node.count("correct")
    if total == 0:
        node.fault("total", "must be at least 1")
    if correct is not None and correct > total:
        node.fault("correct", "must be at most total")
    if correct is not None and not math.isclose(100 * correct / total, value, abs_tol=_ROUNDING):
        node.fault("value", f"{value:g} does not agree with {correct} correct of {total}")
    empty, dropped = node.count("empty"), node.count("dropped")
    rows = _per_row(node, value, total)
    normaliser = node.text("normaliser") if "normaliser" in node.data else ""
    cut = node.count("cut") if "cut" in node.data else 0
    return TaskScore(
        node.text("metric"), node.text("formula"), value, total, correct, empty, dropped, rows, normaliser, cut
    )


def _per_row(node: _Node, value: float, total: int) -> tuple[float, ...]:
    rows = node.items("per_row") if "per_row" in node.data else []
    if not all(map(number(0, 1), rows)):
        node.fault("per_row", "must be a list of numbers in [0, 1]")
    if rows and (len(rows) != total or not math.isclose(100 * sum(rows) / total, value, abs_tol=_ROUNDING)):
        node.fault("per_row", f"has {len(rows)} rows that do not make {value:g} of {total}")
    return tuple(rows)
