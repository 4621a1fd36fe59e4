"""Score a package on tasks (layer L3)."""

from __future__ import annotations

from clora_cli.evaluation.evaluate import evaluate
from clora_cli.evaluation.options import COMBINE, SCORE, EvalOptions

__all__ = ["COMBINE", "SCORE", "EvalOptions", "evaluate"]
