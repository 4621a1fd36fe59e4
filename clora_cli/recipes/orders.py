"""Orders of tasks that the papers share (layer L3); the table is ``orders.yaml``."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from clora_cli.nano.tasks import ORDER
from clora_cli.recipes.document import read_document

__all__ = ["BUNDLED", "orders"]

BUNDLED = "bundled"


@cache
def orders() -> dict[str, tuple[str, ...]]:
    """Return the known orders: their tasks by name, that of the bundled tasks last."""
    path = Path(__file__).parent / "orders.yaml"
    table = read_document(path.read_text(encoding="utf-8"), path.name).plain
    return {name: tuple(tasks.split()) for name, tasks in table.items()} | {BUNDLED: ORDER}
