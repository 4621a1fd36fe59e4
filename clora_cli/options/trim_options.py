"""Options of a trim (layer L1)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from clora_cli.base import registry
from clora_cli.base.options import Options, option
from clora_cli.options.shared_options import seed_option, with_density

__all__ = ["SIDES", "TrimOptions"]

SIDES = {"b": ("B",), "a": ("A",), "both": ("B", "A")}


@dataclass(frozen=True, kw_only=True)
class TrimOptions(Options):
    """What to leave of an adapter."""

    by: str = option(
        "knee",
        f"A .py file, or one of {registry.listed('trims')}.",
        parse=lambda text: registry.admit("trims", text),
        completes="trims",
    )
    by_options: Mapping[str, str] = option(
        {}, "Option of the trim, as `clora show TRIM` tells; repeatable.", flags=("--option",), metavar="KEY=VALUE"
    )
    density: float | None = option(None, "Short for --option density=: the share of entries that stay.")
    on: str = option("b", "Trim b (lora_B), a (lora_A), or both, each by itself.", choices=tuple(SIDES))
    scope: str = option(
        "all",
        "Whether all entries compete with one another, or those of each site: all, site.",
        choices=("all", "site"),
    )
    seed: int = seed_option("Seed of trims that draw random numbers.")
    out: Path = option(Path("trimmed"), "Folder to write.", flags=("-o", "--out"), writes=True)

    @property
    def texts(self) -> dict[str, str]:
        """The trim's options as texts."""
        return with_density(self.by_options, self.density)
