"""Labels of a sweep's points: ``pfd@top-k=2@temperature=0.5`` (layer L0).

They are names of folders, and say in every table and figure where a point lies.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

__all__ = ["read_sweep_label", "sweep_label"]

_POINT = re.compile(r"(?P<stem>[^@=]+)(?P<settings>(?:@[^@=]+=[^@]+)+)")


def sweep_label(stem: str, values: Mapping[str, str]) -> str:
    """Return the label of a point.

    Args:
        stem: The method's label.
        values: The settings' values as typed, in the order of the sweep; commas become plus signs.
    """
    return "@".join((stem, *(f"{name}={value.replace(',', '+')}" for name, value in values.items())))


def read_sweep_label(label: str) -> tuple[str, dict[str, str]] | None:
    """Return the stem and the settings that a label names; None for the label of anything else."""
    match = _POINT.fullmatch(label)
    if not match:
        return None
    pairs = (part.split("=", 1) for part in match["settings"].removeprefix("@").split("@"))
    return match["stem"], {name: value for name, value in pairs}
