"""Low-rank algebra and PEFT's names (layer L1): no files, no models.

A *site* is an adapted linear layer, named by its full module path in the base model. At a site, an adapter holds
``a`` of shape (rank, in) and ``b`` of shape (out, rank), PEFT's ``lora_A`` and ``lora_B``; its *delta* is
``scaling * b @ a`` of shape (out, in).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from clora_cli.errors import MismatchError

__all__ = ["Factor", "concatenate", "config_problem", "factor_keys", "scaling_at", "split_key"]

# Settings under which PEFT computes something else than the base layer plus scaling * B A.
_NOT_PLAIN = (
    "use_dora",
    "alora_invocation_tokens",
    "arrow_config",
    "kasa_config",
    "layer_replication",
    "monteclora_config",
    "target_parameters",
    "trainable_token_indices",
    "use_bdlora",
    "use_qalora",
)
# Values of init_lora_weights that leave the base weights alone; PiSSA, OLoRA, CorDA, LoftQ and others subtract from them.
_PLAIN_STARTS = (None, True, False, "gaussian", "orthogonal", "eva", "mica")
_KEY = re.compile(r"^base_model\.model\.(?P<site>.+)\.lora_(?P<factor>[AB])(\.default)?\.weight$")


@dataclass(frozen=True, eq=False)
class Factor:
    """One adapter's low-rank factors at one site.

    Attributes:
        a: ``lora_A``, shape (rank, in).
        b: ``lora_B``, shape (out, rank).
        scaling: The number that multiplies ``b @ a``; alpha / rank, or alpha / sqrt(rank) under rsLoRA.
    """

    a: Tensor
    b: Tensor
    scaling: float

    @property
    def rank(self) -> int:
        """The number of rows of ``a``."""
        return self.a.shape[0]

    @property
    def shape(self) -> tuple[int, int]:
        """The delta's shape, (out, in)."""
        return self.b.shape[0], self.a.shape[1]

    def delta(self) -> Tensor:
        """Return the dense delta, shape (out, in), float32. For tests and small layers: it is a full matrix."""
        return self.scaling * (self.b.float() @ self.a.float())


def split_key(key: str) -> tuple[str, str]:
    """Split a tensor name of a PEFT LoRA file into its site and ``"A"`` or ``"B"``.

    Raises:
        MismatchError: If the tensor is not a LoRA factor (DoRA magnitudes, biases, embeddings, saved modules).
    """
    match = _KEY.match(key)
    if match is None:
        raise MismatchError(f"tensor '{key}' is not a plain LoRA factor; only LoRA on linear layers is supported")
    return match["site"], match["factor"]


def factor_keys(site: str) -> tuple[str, str]:
    """Return the names of a site's ``lora_A`` and ``lora_B`` in a PEFT LoRA file."""
    return f"base_model.model.{site}.lora_A.weight", f"base_model.model.{site}.lora_B.weight"


def config_problem(config: Mapping[str, Any]) -> str | None:
    """Say why an ``adapter_config.json`` is not a plain LoRA that can be summed exactly, or return None."""
    if config.get("peft_type") != "LORA":
        return f"its peft_type is {config.get('peft_type')!r}, not LORA"
    if config.get("bias", "none") != "none" or config.get("lora_bias"):
        return "it trains biases beside the low-rank factors"
    if config.get("modules_to_save"):
        return f"it replaces whole modules ({', '.join(config['modules_to_save'])})"
    if config.get("init_lora_weights") not in _PLAIN_STARTS:
        start = config["init_lora_weights"]
        return f"its start ({start}) changes the base weights; have PEFT convert it (path_initial_model_for_weight_conversion)"
    special = next((setting for setting in _NOT_PLAIN if config.get(setting)), None)
    return f"it uses {special}, which is more than a sum of low-rank deltas" if special else None


def scaling_at(config: Mapping[str, Any], site: str) -> float:
    """Return the scaling of a site under an ``adapter_config.json``: patterns and rsLoRA included."""
    # A configuration that leaves them out has PEFT's defaults, 8 and 8.
    rank = float(_at(config.get("rank_pattern"), site, config.get("r", 8)))
    alpha = float(_at(config.get("alpha_pattern"), site, config.get("lora_alpha", 8)))
    return alpha / rank**0.5 if config.get("use_rslora") else alpha / rank


def concatenate(factors: list[Factor]) -> Factor:
    """Return one factor pair whose delta is the sum of the given deltas, exactly, with scaling 1.

    Args:
        factors: One or more pairs of one site; ranks may differ.

    Returns:
        ``a`` of shape (sum of ranks, in) and ``b`` of shape (out, sum of ranks), scalings folded into ``b``.
    """
    a = torch.cat([factor.a for factor in factors], dim=0)
    b = torch.cat([factor.b * factor.scaling for factor in factors], dim=1)
    return Factor(a, b, 1.0)


def _at(patterns: Mapping[str, Any] | None, site: str, default: Any) -> Any:
    # PEFT reads a pattern's key as a regular expression that must end a module path at a dot.
    for pattern, value in (patterns or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", site):
            return value
    return default
