"""The scores file: the score of each stage of a run on each task (layer L1).

``clora eval`` writes it, ``clora report`` reads it. One file holds one or more rows of the stage x task matrix: row
``stage`` is the package after learning its ``stage``-th task, row 0 the base model alone. All scores are percentages.
A file with any wrong entry is refused; the message names the entry and what to do.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from clora_cli.base.errors import ArtifactError
from clora_cli.base.files import read_json, to_json, write_text
from clora_cli.base.records import Check, each, listed, name, scalar, whole, wrong
from clora_cli.store.score_cells import Node, Retention, TaskScore, read_cell, read_retention

__all__ = [
    "SCHEMA",
    "AdapterRef",
    "BaseRef",
    "Retention",
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
    "retention?": listed(name),
    "quantize?": name,
    "scorer?": name,
    "route?": each(scalar),
    "calibrate?": listed(name),
}


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
class ScoreRow:
    """One stage.

    Attributes:
        stage: How many tasks had been learned; 0 for the base model alone.
        after: The task that was learned last; empty for the base model alone.
        adapters: The adapters up to this stage.
        scores: Task to score.
        retention: Probe to what is left of general ability; empty for the base model and where it was not asked for.
    """

    stage: int
    after: str
    adapters: tuple[AdapterRef, ...]
    scores: Mapping[str, TaskScore]
    retention: Mapping[str, Retention] = field(default_factory=dict)


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
            row["retention"] = {probe: found.to_dict() for probe, found in kept.retention.items()}
            if not kept.retention:
                del row["retention"]
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
    top = Node(path, "", content)
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


def _order(top: Node) -> tuple[str, ...]:
    order = top.items("order")
    if not all(name(task) and task for task in order):
        top.fault("order", "must be a list of task names")
    if len(set(order)) < len(order):
        top.fault("order", "names a task twice")
    return tuple(order)


def _settings(top: Node) -> dict[str, Any]:
    settings = top.node("settings", top.data.get("settings", {}))
    if odd := wrong(settings.data, _SETTINGS):
        settings.fault(odd, "has a wrong value")
    return settings.data


def _row(node: Node, order: Sequence[str]) -> ScoreRow:
    stage, after = node.count("stage"), node.text("after")
    if (stage == 0) != (after == "") or (after and after not in order):
        node.fault("after", f"'{after}' does not fit stage {stage} of the order {', '.join(order) or '(empty)'}")
    adapters = tuple(AdapterRef(each.text("task"), each.text("sha256")) for each in node.nodes("adapters"))
    scores = node.node("scores", node.data.get("scores"))
    cells = {task: read_cell(scores.node(task, cell)) for task, cell in scores.data.items()}
    kept = node.node("retention", node.data.get("retention", {}))
    retention = {probe: read_retention(kept.node(probe, found)) for probe, found in kept.data.items()}
    return ScoreRow(stage, after, adapters, cells, retention)
