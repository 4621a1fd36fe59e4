"""Score a package on tasks (layer L3)."""

from __future__ import annotations

from clora_cli.evaluation.evaluate import evaluate

__all__ = ["evaluate"]
