"""Orders of tasks that the papers share (layer L3); the table is ``orders.yaml``."""

from __future__ import annotations

from functools import cache

from clora_cli.nano.tasks import ORDER
from clora_cli.recipes.tables import table

__all__ = ["BUNDLED", "orders"]

BUNDLED = "bundled"


@cache
def orders() -> dict[str, tuple[str, ...]]:
    """Return the known orders: their tasks by name, that of the bundled tasks last."""
    return {name: tuple(tasks.split()) for name, tasks in table("orders.yaml").items()} | {BUNDLED: ORDER}
