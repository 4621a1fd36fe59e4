"""Orders of tasks that the papers share (layer L3); the table is ``orders.yaml``."""

from __future__ import annotations

from functools import cache

from clora_cli.data.naming import NAMES
from clora_cli.nano.task_set import ORDER
from clora_cli.recipes.shipped_tables import table

__all__ = ["BUNDLED", "named_orders", "orders"]

BUNDLED = "bundled"


def named_orders() -> dict[str, tuple[str, ...]]:
    """Return the known orders, and each as ``order1+names``: with prompts that begin with the tasks' names."""
    named = {f"{name}{NAMES}": tuple(f"{task}{NAMES}" for task in tasks) for name, tasks in orders().items()}
    return orders() | named


@cache
def orders() -> dict[str, tuple[str, ...]]:
    """Return the known orders: their tasks by name, that of the bundled tasks last."""
    return {name: tuple(tasks.split()) for name, tasks in table("orders.yaml").items()} | {BUNDLED: ORDER}
