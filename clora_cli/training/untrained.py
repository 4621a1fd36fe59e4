"""Make an adapter of zeros for methods that train nothing (layer L3)."""

from __future__ import annotations

import torch
from torch import Tensor

from clora_cli.algebra.lora import factor_keys
from clora_cli.model.backbone import load_skeleton
from clora_cli.model.linear_layers import find_sites
from clora_cli.training.build import lora_config
from clora_cli.training.plan import Plan
from clora_cli.training.result import Result, portable

__all__ = ["zeros"]


def zeros(plan: Plan) -> Result:
    """Return a LoRA that does nothing, without loading the model's weights.

    Raises:
        OptionError: If a target matches no layer.
    """
    options, model = plan.options, load_skeleton(plan.reference)
    sites = find_sites(model, options.target_modules)
    tensors: dict[str, Tensor] = {}
    for site, (rows, columns) in sites.items():
        key_a, key_b = factor_keys(site)
        tensors |= {key_a: torch.zeros(options.rank, columns), key_b: torch.zeros(rows, options.rank)}
    return Result(tensors, portable(lora_config(plan, model, tuple(sites)).to_dict(), plan))
