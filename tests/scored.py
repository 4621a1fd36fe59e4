"""Scores files of a run of three tasks, in percent, made on the spot."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from clora_cli.store.scores import AdapterRef, BaseRef, ScoreRow, Scores, TaskScore

ORDER = ("cb", "rte", "wic")


FULL = [[80.0, 30.0, 20.0], [70.0, 60.0, 25.0], [50.0, 55.0, 90.0]]


def cell(value, total=100, metric="exact-match", normaliser=""):
    return TaskScore(metric, "normalised", value, total, normaliser=normaliser)


def row(stage, values, order=ORDER, sha="a", **kind):
    adapters = tuple(AdapterRef(task, sha) for task in order[:stage])
    scores = {task: cell(value, **kind) for task, value in zip(order, values, strict=False)}
    return ScoreRow(stage, order[stage - 1] if stage else "", adapters, scores)


def scores(*rows, order=ORDER, source="s.json", **changes):
    file = Scores(BaseRef("nano", "f0"), "adapters", "n-lora", "sum", "generate", order, rows, Path(source))
    return replace(file, **changes)


def full(**changes):
    return scores(*(row(stage, values) for stage, values in enumerate(FULL, start=1)), **changes)


def alone(values=(78.0, 62.0, 85.0)):
    rows = [row(stage, values, sha="b") for stage in (1, 2, 3)]
    return scores(*rows, method="per-task", combine="task-id", package="alone", source="alone.json")


def base(values=(10.0, 20.0, 30.0)):
    return scores(row(0, values), order=(), package="", method="", combine="none", source="base.json")
