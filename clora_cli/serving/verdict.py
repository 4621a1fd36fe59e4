"""Where a prompt goes, how sure that is, and why (layer L3)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from clora_cli.base.legible import legible

__all__ = ["Verdict"]


@dataclass(frozen=True)
class Verdict:
    """Where a prompt goes.

    Attributes:
        adapter: The adapter of the largest mean weight; None for the base model alone.
        confidence: That weight among all that ``clora route`` would give, in [0, 1]; 1 if the request named the model, 0 if
            the prompt is too far from every adapter.
        reason: Why, in words.
        version: The package that decided.
        weights: The weights as ``clora route`` gives them, the mean over sites, by adapter.
        used: What the adapters are multiplied by in the answer, the mean over sites, by adapter.
        sites: As ``weights``, by site.
    """

    adapter: str | None
    confidence: float
    reason: str
    version: str
    weights: Mapping[str, float] = field(default_factory=dict)
    used: Mapping[str, float] = field(default_factory=dict)
    sites: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    @property
    def headers(self) -> dict[str, str]:
        """The headers that an answer has."""
        told = {
            "x-clora-adapter": "base" if self.adapter is None else self.adapter,
            "x-clora-confidence": f"{self.confidence:.6g}",
            "x-clora-reason": self.reason,
            "x-clora-version": self.version,
        }
        return {name: _ascii(value) for name, value in told.items()}

    def told(self, *, per_site: bool = False) -> dict[str, Any]:
        """Return the entry of an answer's body."""
        entry = {
            "adapter": self.adapter,
            "confidence": self.confidence,
            "reason": self.reason,
            "version": self.version,
            "weights": dict(self.weights),
            "used": dict(self.used),
        }
        return entry | ({"sites": {site: dict(one) for site, one in self.sites.items()}} if per_site else {})


def _ascii(value: str) -> str:
    """Return a text as a header may hold it: controls, and what is beyond ASCII, are written as Python would."""
    return legible(value).encode("ascii", "backslashreplace").decode()
