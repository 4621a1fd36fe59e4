"""The table in the papers' form: methods by metrics, order by order and on average, with the best marked (layer L3).

``standings`` makes it; Markdown, HTML and LaTeX write down what it holds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from clora_cli.base import registry
from clora_cli.reporting.method_results import Group, Order, Results, Spread, Traits

__all__ = ["COLUMNS", "TRAITS", "Column", "Place", "Row", "Standings", "standings", "standings_notes", "written"]

_AVERAGE = "average"


@dataclass(frozen=True)
class Column:
    """A metric in the table: the papers' name of it, the plug-in's, and whether more is better."""

    title: str
    metric: str
    rises: bool


COLUMNS = (
    Column("AP", "average-performance", True),
    Column("F.Ra", "forgetting-rate", False),
    Column("FWT", "forward-transfer", True),
    Column("BWT", "backward-transfer", True),
)
# What a method does without, as a title and as a sentence: a tick is good in every column.
TRAITS = {
    "no replay": "it is not trained on rows of tasks that it has learned already",
    "no task id": "nobody tells it an input's task at test",
    "no growth": "its model stays as large as it is, however many tasks it learns",
}


@dataclass(frozen=True)
class Place:
    """One cell: a metric's spread, and 1 or 2 if it is the best or the second of those that are ranked, else 0."""

    spread: Spread
    rank: int = 0


@dataclass(frozen=True)
class Row:
    """One method: its label, what it does without (None: not known), its number of runs, and a cell for each column."""

    label: str
    without: tuple[bool | None, ...]
    runs: int
    cells: tuple[Place, ...]


@dataclass(frozen=True)
class Standings:
    """The table.

    Attributes:
        blocks: The orders' labels and ``average``; one empty label if there is one order alone.
        columns: The metrics of every block.
        rows: The methods; each has ``len(blocks) * len(columns)`` cells.
        repeated: Whether any cell is a mean of several runs.
    """

    blocks: tuple[str, ...]
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]

    @property
    def repeated(self) -> bool:
        """Whether any cell has a deviation."""
        return any(not math.isnan(cell.spread.deviation) for row in self.rows for cell in row.cells)


def standings(results: Results) -> Standings:
    """Return the table of all methods; metrics that none has are left out.

    The average over orders is the mean of the orders' means; its deviation is that of all runs. Ranked are the methods
    that neither reuse data nor are told the task, by what is written: equal to two decimals is equal.
    """
    groups = [*results.zero_shot, *results.groups]
    several = len(results.orders) > 1
    blocks = [*(order.label for order in results.orders), _AVERAGE] if several else [""]
    spreads = {column: [_spreads(group, results.orders, column) for group in groups] for column in COLUMNS}
    shown = [column for column in COLUMNS if any(not math.isnan(one.mean) for row in spreads[column] for one in row)]
    fair = [group.traits.fair for group in groups]
    ranks = {
        column: [_ranks([row[b] for row in spreads[column]], fair, column) for b in range(len(blocks))]
        for column in shown
    }
    rows = tuple(
        Row(
            group.label,
            _without(group.traits),
            sum(len(series.runs) for series in group.series.values()),
            tuple(Place(spreads[c][g][b], ranks[c][b][g]) for b in range(len(blocks)) for c in shown),
        )
        for g, group in enumerate(groups)
    )
    return Standings(tuple(blocks), tuple(shown), rows)


def standings_notes(found: Standings) -> list[str]:
    """Return what the columns of the table mean, sentence by sentence."""
    notes = [f"{column.title}: {registry.summary('metrics', column.metric)}" for column in found.columns]
    notes.append("✔ " + "; ".join(f"{title}: {meaning}" for title, meaning in TRAITS.items()) + ".")
    if any(cell.rank for row in found.rows for cell in row.cells):
        notes.append("Bold: the best of the methods that learn and neither replay data nor are told the task.")
    if found.repeated:
        notes.append("±: standard deviation over runs that differ in their seed (n - 1 in the denominator).")
    if _AVERAGE in found.blocks:
        notes.append("average: mean of the orders' means, ± the standard deviation of all runs.")
    return notes


def written(spread: Spread) -> str:
    """Write a mean and its deviation with two decimals; a dash for what is not known."""
    if math.isnan(spread.mean):
        return "-"
    text = f"{round(spread.mean, 2) + 0.0:.2f}"  # + 0.0: never "-0.00"
    return text if math.isnan(spread.deviation) else f"{text} ± {spread.deviation:.2f}"


def _spreads(group: Group, orders: Sequence[Order], column: Column) -> list[Spread]:
    each = [
        group.series[order].metrics[column.metric] if order in group.series else Spread(math.nan) for order in orders
    ]
    return [*each, group.average(orders, column.metric)] if len(orders) > 1 else each


def _without(traits: Traits) -> tuple[bool | None, ...]:
    asked = (traits.reuses_data, traits.needs_task_id, traits.grows)
    return tuple(None if one is None else not one for one in asked)


def _ranks(spreads: Sequence[Spread], fair: Sequence[bool], column: Column) -> list[int]:
    """Return 1 for the best and 2 for the second best of at least two that are ranked, by what is written."""
    sign = 1 if column.rises else -1
    values = [
        sign * round(one.mean, 2) if ranked and not math.isnan(one.mean) else math.nan
        for one, ranked in zip(spreads, fair, strict=True)
    ]
    known = [value for value in values if not math.isnan(value)]
    if len(known) < 2:
        return [0] * len(values)
    first, *others = sorted(set(known), reverse=True)
    second = others[0] if others and known.count(first) == 1 else math.nan
    return [1 if value == first else 2 if value == second else 0 for value in values]
