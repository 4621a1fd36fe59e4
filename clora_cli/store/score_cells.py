"""One cell of the stage x task matrix, and what was kept of general ability, as a scores file has them (layer L1)."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn

from clora_cli.base.errors import ArtifactError
from clora_cli.base.legible import is_legible
from clora_cli.base.records import number, whole

__all__ = ["Node", "Retention", "TaskScore", "read_cell", "read_retention"]

# The normaliser of files that do not name one.
_FIRST = {"exact-match": "english/1", "label-rank": "english/1", "rouge-l": "english-words/1"}
_BOTH = ("before", "after")
_ROUNDING = (
    0.06  # percentage points: rounding to one decimal place may separate a value from its correct / total by this much
)


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
        answers: One number for each row's answer, equal where answers are; empty where they were not kept.
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
    answers: tuple[int, ...] = ()

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
        return {key: value for key, value in content.items() if value or key not in {"normaliser", "cut", "answers"}}


@dataclass(frozen=True)
class Retention:
    """What is left, at one stage, of what the base model could do before any task.

    Attributes:
        divergence: The Kullback-Leibler divergence KL(base || adapted) of the next token, in nats, mean over ``tokens``.
        tokens: Positions it is taken at: those of the probe's prompts, or of its answers where the model has an encoder.
        before: The base model's score on the probe's questions; None for a probe without questions.
        after: The score at this stage, on the same rows in the same order.
    """

    divergence: float
    tokens: int
    before: TaskScore | None
    after: TaskScore | None

    @property
    def lost(self) -> int:
        """Number of rows that were right before and are wrong now."""
        return sum(old > new for old, new in self._rows)

    @property
    def gained(self) -> int:
        """Number of rows that were wrong before and are right now."""
        return sum(old < new for old, new in self._rows)

    @property
    def _rows(self) -> list[tuple[float, float]]:
        if self.before is None or self.after is None:
            return []
        return list(zip(self.before.per_row, self.after.per_row, strict=True))

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON object."""
        scores = {name: score and score.to_dict() for name, score in (("before", self.before), ("after", self.after))}
        return {"divergence": self.divergence, "tokens": self.tokens, **scores}


@dataclass(frozen=True)
class Node:
    """A JSON object with its place in the file, to name file and place in every error."""

    path: Path
    place: str
    data: dict[str, Any]

    def fault(self, key: str, problem: str) -> NoReturn:
        """Refuse the file, naming an entry and what is wrong with it."""
        place = f"{self.place}.{key}".strip(".")
        raise ArtifactError(
            f"{self.path}: {place} {problem}; write it again with `clora eval … -o {self.path}`",
            code="scores-file-damaged",
        )

    def text(self, key: str) -> str:
        """Return a string."""
        value = self.data.get(key)
        if isinstance(value, str) and not is_legible(value):
            self.fault(key, "has letters that cannot be shown")
        return value if isinstance(value, str) else self.fault(key, "must be a string")

    def count(self, key: str) -> int:
        """Return a whole number, 0 or more."""
        value = self.data.get(key)
        if whole()(value):
            return int(value)  # type: ignore[arg-type]
        self.fault(key, "must be a whole number, 0 or more")

    def percent(self, key: str) -> float:
        """Return a percentage."""
        value = self.data.get(key)
        if number(0, 100)(value):
            return float(value)  # type: ignore[arg-type]
        self.fault(key, "must be a percentage in [0, 100]")

    def items(self, key: str) -> list[Any]:
        """Return a list."""
        value = self.data.get(key)
        return value if isinstance(value, list) else self.fault(key, "must be a list")

    def node(self, key: str, value: object) -> Node:
        """Return an object that is an entry of this one."""
        if not isinstance(value, dict):
            self.fault(key, "must be an object")
        return Node(self.path, f"{self.place}.{key}".strip("."), value)

    def nodes(self, key: str) -> list[Node]:
        """Return a list of objects."""
        return [self.node(f"{key}[{index}]", value) for index, value in enumerate(self.items(key))]


def read_retention(node: Node) -> Retention:
    """Read and check what was kept of general ability.

    Raises:
        ArtifactError: If an entry is wrong, or both scores are not of the same rows.
    """
    divergence, tokens = node.data.get("divergence"), node.count("tokens")
    if not number(0, math.inf)(divergence):
        node.fault("divergence", "must be a number, 0 or more")
    before, after = (None if node.data.get(key) is None else read_cell(node.node(key, node.data[key])) for key in _BOTH)
    if (before is None) != (after is None) or (before and after and before.yardstick != after.yardstick):
        node.fault("after", "is not of the same rows as 'before'")
    return Retention(float(divergence), tokens, before, after)  # type: ignore[arg-type]


def read_cell(node: Node) -> TaskScore:
    """Read and check one cell.

    Raises:
        ArtifactError: If an entry is wrong, or two contradict each other.
    """
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
    parts = (node.text("metric"), node.text("formula"), value, total, correct, empty, dropped, rows, normaliser, cut)
    return TaskScore(*parts, _answers(node, total))


def _answers(node: Node, total: int) -> tuple[int, ...]:
    numbers = node.items("answers") if "answers" in node.data else []
    if not all(map(whole(), numbers)) or len(numbers) not in (0, total):
        node.fault("answers", f"must be {total} whole numbers, 0 or more")
    return tuple(numbers)


def _per_row(node: Node, value: float, total: int) -> tuple[float, ...]:
    rows = node.items("per_row") if "per_row" in node.data else []
    if not all(map(number(0, 1), rows)):
        node.fault("per_row", "must be a list of numbers in [0, 1]")
    if rows and (len(rows) != total or not math.isclose(100 * sum(rows) / total, value, abs_tol=_ROUNDING)):
        node.fault("per_row", f"has {len(rows)} rows that do not make {value:g} of {total}")
    return tuple(rows)
