"""Who owns what of a LoRA that tasks share, as a table, as JSON and as a figure (layer L3)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from clora_cli.base.legible import markdown
from clora_cli.presenting.canvas import save
from clora_cli.presenting.figures.radial import compose_radial
from clora_cli.presenting.markdown import table
from clora_cli.store.adapter_folder import AdapterFolder
from clora_cli.store.ledger import Ledger, read_ledger

__all__ = ["capacity_json", "capacity_table", "draw_capacity", "shared_ledger"]


def shared_ledger(members: Sequence[AdapterFolder]) -> Ledger | None:
    """Return who owns what, where all adapters say that they start from one shared LoRA; else None.

    Raises:
        ArtifactError: If a mask is damaged.
        MismatchError: If they say so and it is not true.
    """
    shared = all(member.manifest.get("method", {}).get("start") == "shared" for member in members)
    return read_ledger(members) if members and shared else None


def capacity_table(ledger: Ledger) -> str:
    """Return a table: each task's entries, its share, and the least and the largest share that it has at a site."""
    by_site = list(zip(*ledger.by_site().values(), strict=True))
    counts = {**dict(zip(ledger.tasks, ledger.owned, strict=True)), "idle": ledger.idle}
    rows = [
        [
            markdown(task),
            str(count),
            f"{100 * count / ledger.size:.1f}",
            f"{100 * min(one):.1f}",
            f"{100 * max(one):.1f}",
        ]
        for (task, count), one in zip(counts.items(), by_site, strict=True)
    ]
    return table(["owner of lora_B", "entries", "%", "least at a site", "most at a site"], rows)


def capacity_json(ledger: Ledger) -> dict[str, Any]:
    """Return the same as JSON data, shares in [0, 1], with every site's."""
    names = [*ledger.tasks, "idle"]
    sites = {site: dict(zip(names, shares, strict=True)) for site, shares in ledger.by_site().items()}
    shares = {**ledger.shares, "idle": ledger.idle / ledger.size}
    return {"entries": ledger.size, "shares": shares, "sites": sites}


def draw_capacity(ledger: Ledger, path: Path) -> None:
    """Draw the ledger into a .png, .svg or .pdf file.

    Raises:
        OptionError: If the ending is another.
        CloraError: If the file cannot be written.
    """
    save(path, lambda figure: compose_radial(figure, ledger))
