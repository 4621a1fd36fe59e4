"""Train one new adapter on top of a package (layer L3)."""

from __future__ import annotations

from clora_cli.training.describe import Description, describe
from clora_cli.training.execute import train_task
from clora_cli.training.plan import Plan, make_plan

__all__ = ["Description", "Plan", "describe", "make_plan", "train_task"]
