"""Adapter folders in, adapter folders out (layer L3): merges and unions without a model, feature distributions with one."""

from __future__ import annotations

from clora_cli.transforming.expanding import ExpandOptions, ExpandPlan, expand_packages, plan_expand
from clora_cli.transforming.featuring import FeatureJob, FeatureOptions, FeaturePlan, plan_features
from clora_cli.transforming.merge_plan import MergeOptions, MergePlan
from clora_cli.transforming.merging import merge_adapters, plan_merge
from clora_cli.transforming.taking import FeatureResult, sizes, spots_of, take_features
from clora_cli.transforming.trimming import TrimOptions, TrimPlan, plan_trim, trim_adapter

__all__ = [
    "ExpandOptions",
    "ExpandPlan",
    "FeatureJob",
    "FeatureOptions",
    "FeaturePlan",
    "FeatureResult",
    "MergeOptions",
    "MergePlan",
    "TrimOptions",
    "TrimPlan",
    "expand_packages",
    "merge_adapters",
    "plan_expand",
    "plan_features",
    "plan_merge",
    "plan_trim",
    "sizes",
    "spots_of",
    "take_features",
    "trim_adapter",
]
