"""Add the adapters up, as training on top of their sum left them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from clora_cli.base.errors import OptionError
from clora_cli.merges import Merge

__all__ = ["Sum"]


@dataclass(frozen=True, kw_only=True)
class Sum(Merge):
    """Add the adapters up, as training on top of their sum left them.

    ``merged = sum_i delta_i``: what ``clora eval --combine sum`` computes, exactly.

    References:
        Task arithmetic with weight 1: Ilharco et al., Editing Models with Task Arithmetic, 2023, arXiv:2212.04089.
    """

    linear = True

    def coefficients(self, weights: Tensor) -> Tensor:
        """Return ones.

        Raises:
            OptionError: If any weight is not 1.
        """
        if not bool((weights == 1).all()):
            raise OptionError("--strategy sum takes no --weights; use --strategy linear", code="option-has-no-effect")
        return torch.ones_like(weights)
