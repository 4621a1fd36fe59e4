"""Who owns which share of a LoRA that tasks share, with the idle rest last and under a name of its own."""

from __future__ import annotations

from clora_cli.store.ledger import Ledger

__all__ = ["owner_names", "owner_shares"]


def owner_names(ledger: Ledger) -> list[str]:
    """Return the tasks and, at the end, a name for the idle rest that no task has: ``idle``, or ``idle (no task)``."""
    return [*ledger.tasks, "idle (no task)" if "idle" in ledger.tasks else "idle"]


def owner_shares(ledger: Ledger) -> dict[str, float]:
    """Return each task's share of all entries, and at the end the idle share, in [0, 1]."""
    owned = [*ledger.owned, ledger.idle]
    return {name: entries / ledger.size for name, entries in zip(owner_names(ledger), owned, strict=True)}
