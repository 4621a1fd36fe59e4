"""Average the adapters."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from clora_cli.base.errors import OptionError
from clora_cli.merges import Merge

__all__ = ["Average"]


@dataclass(frozen=True, kw_only=True)
class Average(Merge):
    """Average the adapters.

    ``merged = sum_i w_i delta_i / sum_i w_i``. The weights are relative: 1, 1 and 2, 2 mean the same.

    References:
        Wortsman et al., Model soups: averaging weights of multiple fine-tuned models improves accuracy without
        increasing inference time, 2022, arXiv:2203.05482.
        Differs: the product ``scaling * B A`` is averaged, never A and B apart.
    """

    linear = True

    def coefficients(self, weights: Tensor) -> Tensor:
        """Return the weights divided by their sum, shape (adapter,), float64.

        Raises:
            OptionError: If they add up to 0.
        """
        total = weights.double().sum()
        if total == 0:
            raise OptionError(
                "the --weights of --strategy average add up to 0; give others or use --strategy linear",
                code="merge-weights-sum-to-zero",
            )
        return weights.double() / total
