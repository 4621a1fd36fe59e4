"""Average the adapters."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from clora_cli.base.errors import OptionError
from clora_cli.merges import Merge

__all__ = ["Average"]

_ROUNDING = 1e-6  # of the sum of magnitudes: 0.1, 0.2 and -0.3 leave that of float32, which would be divided by


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
        total, whole = weights.double().sum(), weights.double().abs().sum()
        if total.abs() <= _ROUNDING * whole:
            raise OptionError(
                "the --weights of --strategy average add up to 0; give others or use --strategy linear",
                code="merge-weights-sum-to-zero",
            )
        return weights.double() / total
