"""The tables that shipped recipes are composed of, read once (layer L3)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from clora_cli.recipes.document import read_document

__all__ = ["orders_of", "table"]


@cache
def table(name: str) -> dict[str, Any]:
    """Return the table of a file of this folder."""
    path = Path(__file__).parent / name
    content: dict[str, Any] = read_document(path.read_text(encoding="utf-8"), path.name).plain
    return content


def orders_of(named: str | Sequence[str]) -> Sequence[str]:
    """Return the orders of a family, or those of a list."""
    families: dict[str, list[str]] = table("settings.yaml")["families"]
    return families[named] if isinstance(named, str) else named
