"""Options of a scan (layer L1)."""

from __future__ import annotations

from dataclasses import dataclass

from clora_cli.base.options import Options, option

__all__ = ["ScanOptions"]


@dataclass(frozen=True, kw_only=True)
class ScanOptions(Options):
    """What counts as a finding."""

    deviations: float = option(
        8.0,
        "Robust standard deviations, of the logarithm over layers of one kind, beyond which a layer's change stands out.",
        interval="(0, inf)",
    )
