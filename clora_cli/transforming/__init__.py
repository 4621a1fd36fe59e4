"""Adapter folders in, adapter folders out (layer L3): merges and unions without a model, feature distributions with one."""

from __future__ import annotations

from clora_cli.transforming.expanding import ExpandPlan, expand_packages, plan_expand
from clora_cli.transforming.featuring import FeatureJob, FeaturePlan, plan_features
from clora_cli.transforming.merge_plan import MergePlan
from clora_cli.transforming.merging import merge_adapters, plan_merge
from clora_cli.transforming.taking import FeatureResult, sizes, spots_of, take_features
from clora_cli.transforming.trimming import TrimPlan, plan_trim, trim_adapter

__all__ = [
    "ExpandPlan",
    "FeatureJob",
    "FeaturePlan",
    "FeatureResult",
    "MergePlan",
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
