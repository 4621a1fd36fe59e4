"""Scores by group of tasks as rows of a table and as data."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

from clora_cli.presenting.cells import mean_and_deviation
from clora_cli.reporting.task_groups import GroupRow, GroupTable

__all__ = ["group_data", "group_note", "group_rows"]


def group_note(groups: GroupTable) -> str:
    """Return what the cells of a table are."""
    compared = any(not math.isnan(value) for row in groups.rows for value in row.change)
    alone = (
        " In parentheses: the difference from the method that learned this group of tasks alone." if compared else ""
    )
    return f"Mean scores after the last task, percent; the average is over the groups.{alone}"


def group_rows(groups: GroupTable) -> tuple[list[str], list[list[str]]]:
    """Return the header and the rows of a table: a column for each group with its number of tasks, then the average."""
    header = ["method", *(f"{name} ({len(tasks)})" for name, tasks in groups.groups.items()), "average"]
    return header, [[row.label, *_cells(row), mean_and_deviation(row.average)] for row in groups.rows]


def group_data(groups: GroupTable) -> dict[str, Any]:
    """Return the table as JSON data; null where a score is not known."""
    rows = [
        {
            "method": row.label,
            "scores": [_known(asdict(spread)) for spread in row.scores],
            "average": _known(asdict(row.average)),
            "change": [None if math.isnan(value) else value for value in row.change],
        }
        for row in groups.rows
    ]
    return {"title": groups.title, "groups": {name: list(tasks) for name, tasks in groups.groups.items()}, "rows": rows}


def _cells(row: GroupRow) -> list[str]:
    pairs = zip(row.scores, row.change, strict=True)
    return [
        mean_and_deviation(spread) + ("" if math.isnan(change) else f" ({change:+.1f})") for spread, change in pairs
    ]


def _known(values: dict[str, float]) -> dict[str, float | None]:
    return {name: None if math.isnan(value) else value for name, value in values.items()}
