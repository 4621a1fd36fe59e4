"""What the papers report, whether or not they say with what settings (layer L3); the table is ``papers.yaml``."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

from clora_cli.recipes.shipped_tables import orders_of, table

__all__ = ["Report", "reports"]


@dataclass(frozen=True)
class Report:
    """A result that a paper has of a method on a backbone and an order.

    Attributes:
        paper: The paper's short name.
        where: Its table, or section.
        whole: Whether all parameters of the model were trained, where clora's method trains a LoRA.
        note: What else is not as one would expect; empty if nothing.
    """

    paper: str
    where: str
    whole: bool = False
    note: str = ""

    def __str__(self) -> str:
        """The report in words: ``N-LoRA, table 1 (all parameters trained)``."""
        notes = "; ".join(text for text in ("all parameters trained" if self.whole else "", self.note) if text)
        return f"{self.paper}, {self.where}" + (f" ({notes})" if notes else "")


@cache
def reports(method: str, backbone: str, order: str) -> tuple[Report, ...]:
    """Return every paper's result of a method, or of several together, in the table's order; ``()`` if none has one.

    Args:
        method: Such as ``ewc`` or ``inc-lora+migu``.
        backbone: A key of the table of backbones.
        order: A key of the table of orders.
    """
    rows = (row for row in table("papers.yaml")["reported"] if backbone in row["backbones"])
    return tuple(
        Report(row["paper"], row["where"], method in row.get("whole", ()), row.get("note", ""))
        for row in rows
        if order in orders_of(row["orders"]) and method in _methods(row)
    )


def _methods(row: dict[str, Any]) -> list[str]:
    return [*row.get("methods", ()), *row.get("whole", ())]
