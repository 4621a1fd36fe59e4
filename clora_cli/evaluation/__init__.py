"""Score a package on tasks (layer L3)."""

from __future__ import annotations

from clora_cli.evaluation.evaluate import COMBINE, SCORE, EvalOptions, evaluate

__all__ = ["COMBINE", "SCORE", "EvalOptions", "evaluate"]
