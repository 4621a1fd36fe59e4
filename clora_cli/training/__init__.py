"""Train one new adapter on top of a package (layer L3)."""

from __future__ import annotations

from clora_cli.training.describe import Description, describe
from clora_cli.training.execute import train_task
from clora_cli.training.plan import Plan, make_plan
from clora_cli.training.train_options import TrainOptions

__all__ = ["Description", "Plan", "TrainOptions", "describe", "make_plan", "train_task"]
