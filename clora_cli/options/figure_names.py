"""The figures that ``clora report`` draws by name (layer L1)."""

from __future__ import annotations

__all__ = ["FIGURE_NAMES"]

FIGURE_NAMES = (
    "curves",
    "metrics",
    "matrices",
    "sweep",
    "routes",
    "interference",
    "collisions",
    "shifts",
    "drift",
    "nuclear-norms",
    "plane",
    "capacity",
    "losses",
    "relations",
    "gains",
    "outputs",
    "sparsity",
    "sizes",
    "costs",
)
