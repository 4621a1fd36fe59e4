"""The table of the papers: methods by metrics, order by order and on average, with the best ranked (layer L3)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from clora_cli.reporting.method_results import Group, Order, Results, Spread, Traits

__all__ = ["AVERAGE", "BY_STAGE", "COLUMNS", "TRAITS", "Cell", "Column", "Row", "Standings", "standings"]

AVERAGE = "average"  # the label of the last block


@dataclass(frozen=True)
class Column:
    """A metric in the table: its name in papers, its plug-in, and whether more is better."""

    title: str
    metric: str
    rises: bool


COLUMNS = (
    Column("AP", "average-performance", True),
    Column("F.Ra", "forgetting-rate", False),
    Column("FWT", "forward-transfer", True),
    Column("BWT", "backward-transfer", True),
)
# The metrics whose values after every stage are shown.
BY_STAGE = (COLUMNS[0], Column("AAA", "average-anytime-performance", True), *COLUMNS[1:])
# What a method can do without, as a title and as a sentence, so that a tick is good in every column.
TRAITS = {
    "no replay": "it trains on no rows of earlier tasks",
    "no task id": "it does not need to know an input's task at test time",
    "no growth": "its model keeps its size, however many tasks it learns",
}


@dataclass(frozen=True)
class Cell:
    """A metric's spread, and its rank: 1 for the best and 2 for the second best of the ranked methods, else 0."""

    spread: Spread
    rank: int = 0


@dataclass(frozen=True)
class Row:
    """One method.

    Attributes:
        label: Its label.
        without: Whether it does without each of ``TRAITS``; None if that is not known.
        runs: The number of its runs.
        cells: A cell for each column of each block.
    """

    label: str
    without: tuple[bool | None, ...]
    runs: int
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Standings:
    """The table.

    Attributes:
        blocks: The orders' labels and ``AVERAGE``; a single empty label if there is only one order.
        columns: The metrics of every block.
        rows: The methods; each has ``len(blocks) * len(columns)`` cells.
    """

    blocks: tuple[str, ...]
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]

    @property
    def cells(self) -> list[Cell]:
        """All cells, row by row."""
        return [cell for row in self.rows for cell in row.cells]

    @property
    def repeated(self) -> bool:
        """Whether any cell has a deviation."""
        return any(not math.isnan(cell.spread.deviation) for cell in self.cells)


def standings(results: Results) -> Standings:
    """Return the table of all methods, without the metrics that no method has.

    The average over orders is the mean of the orders' means; its deviation is that of all runs. Methods that neither reuse
    data nor need the inputs' task are ranked, by their values to two decimals.
    """
    groups = [*results.zero_shot, *results.groups]
    blocks = [*(order.label for order in results.orders), AVERAGE] if len(results.orders) > 1 else [""]
    by_column = {column: _ranked(groups, results.orders, column) for column in COLUMNS}
    shown = [column for column in COLUMNS if _has_values(by_column[column])]
    rows = tuple(
        Row(
            group.label,
            _without(group.traits),
            sum(len(series.runs) for series in group.series.values()),
            tuple(by_column[column][number][block] for block in range(len(blocks)) for column in shown),
        )
        for number, group in enumerate(groups)
    )
    return Standings(tuple(blocks), tuple(shown), rows)


def _ranked(groups: Sequence[Group], orders: Sequence[Order], column: Column) -> list[list[Cell]]:
    """Return a column's cells, (group, block)."""
    spreads = [_spreads(group, orders, column) for group in groups]
    fair = [group.traits.fair for group in groups]
    ranks = [_ranks(block, fair, column) for block in zip(*spreads, strict=True)]
    return [
        [Cell(spread, ranks[block][number]) for block, spread in enumerate(row)] for number, row in enumerate(spreads)
    ]


def _has_values(cells: Sequence[Sequence[Cell]]) -> bool:
    return any(not math.isnan(cell.spread.mean) for row in cells for cell in row)


def _spreads(group: Group, orders: Sequence[Order], column: Column) -> list[Spread]:
    """Return a group's spread for each order and, if there are several, their average."""
    by_order = [
        group.series[order].metrics[column.metric] if order in group.series else Spread(math.nan) for order in orders
    ]
    return [*by_order, group.average(orders, column.metric)] if len(orders) > 1 else by_order


def _without(traits: Traits) -> tuple[bool | None, ...]:
    needs = (traits.reuses_data, traits.needs_task_id, traits.grows)
    return tuple(None if need is None else not need for need in needs)


def _ranks(spreads: Sequence[Spread], fair: Sequence[bool], column: Column) -> list[int]:
    """Return 1 for the best and 2 for the second best, if at least two are ranked; equal to two decimals is equal."""
    sign = 1 if column.rises else -1
    values = [
        sign * round(spread.mean, 2) if is_fair and not math.isnan(spread.mean) else math.nan
        for spread, is_fair in zip(spreads, fair, strict=True)
    ]
    ranked = [value for value in values if not math.isnan(value)]
    if len(ranked) < 2:
        return [0] * len(values)
    best, *others = sorted(set(ranked), reverse=True)
    second = others[0] if others and ranked.count(best) == 1 else math.nan
    return [1 if value == best else 2 if value == second else 0 for value in values]
