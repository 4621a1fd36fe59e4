"""Adapter folders in, adapter folders out, without loading a model (layer L3)."""

from __future__ import annotations

from clora_cli.transforming.merging import MergeOptions, MergePlan, merge_adapters, plan_merge

__all__ = ["MergeOptions", "MergePlan", "merge_adapters", "plan_merge"]
