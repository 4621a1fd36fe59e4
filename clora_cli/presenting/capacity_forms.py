"""Who owns what of a LoRA that tasks share, as a Markdown table, as JSON and as a figure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from clora_cli.base.legible import markdown
from clora_cli.presenting.canvas import save
from clora_cli.presenting.figures.radial import compose_radial
from clora_cli.presenting.ledger_shares import owner_names, owner_shares
from clora_cli.presenting.markdown import table
from clora_cli.store.ledger import Ledger

__all__ = ["capacity_json", "capacity_table", "draw_capacity"]


def capacity_table(ledger: Ledger) -> str:
    """Return a table of each task's entries, their share, and the least and the largest share of any site."""
    shares_at_sites = zip(*ledger.by_site().values(), strict=True)
    entries = [*ledger.owned, ledger.idle]
    rows = [
        [markdown(name), str(count), *(f"{100 * value:.1f}" for value in (share, min(at_sites), max(at_sites)))]
        for (name, share), count, at_sites in zip(owner_shares(ledger).items(), entries, shares_at_sites, strict=True)
    ]
    return table(["owner of lora_B", "entries", "%", "least at a site", "most at a site"], rows)


def capacity_json(ledger: Ledger) -> dict[str, Any]:
    """Return the number of entries and all shares, in [0, 1], as JSON data: of the whole LoRA and of every site."""
    names = owner_names(ledger)
    sites = {site: dict(zip(names, shares, strict=True)) for site, shares in ledger.by_site().items()}
    return {"entries": ledger.size, "shares": owner_shares(ledger), "sites": sites}


def draw_capacity(ledger: Ledger, path: Path) -> None:
    """Draw who owns what into a .png, .svg or .pdf file.

    Raises:
        OptionError: If the ending is another.
        CloraError: If the file cannot be written.
    """
    save(path, lambda figure: compose_radial(figure, ledger))
