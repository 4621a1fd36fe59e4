"""Keep the new LoRA's input subspace orthogonal to those of all earlier ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from clora_cli.base.intervals import check_option
from clora_cli.methods import Factors, Method, Penalty

__all__ = ["OLora"]


@dataclass(frozen=True, kw_only=True)
class OLora(Method):
    """Keep the new LoRA's input subspace orthogonal to those of all earlier ones.

    ``L = strength * sum_sites sum_{i<t} ||A_i A_t^T||_F^2`` over PEFT's A of shape (rank, in), scalings left out.
    Nothing happens at the first task: there is no past.

    Args:
        strength: The weight of the term (the paper's lambda_1), at least 0. It is tuned to one norm; 0.5 is the published value.
        norm: ``squared`` sums the squares of the overlaps, as in the paper; ``absolute`` their absolute values, as in the published code.

    References:
        Wang et al., Orthogonal Subspace Learning for Language Model Continual Learning, 2023, arXiv:2310.14152, eq. 6-8.
        Differs: the default norm is the paper's; the published strength 0.5 was used with ``norm=absolute``.
        Differs: the code's second term (lambda_2 times the sum of the new factors' norms, not squared) is not there; the published
        scripts of orders 1 to 3 have it at 0, and ``--weight-decay`` comes nearest.
        Differs: dropout as in inc-lora.
    """

    strength: float = 0.5
    norm: Literal["squared", "absolute"] = "squared"

    def __post_init__(self) -> None:
        """Check the options."""
        check_option("o-lora", "strength", self.strength, "[0, inf)")

    def penalty(self, factors: Factors) -> Penalty | None:
        """Return the overlap of the new A with the past ones; None without a past."""
        if factors.past_a is None:
            return None
        past = factors.past_a.to(factors.a.dtype)
        overlap = past @ factors.a.mT  # (site, past rank, rank)
        if self.norm == "squared":
            value, slope = overlap.square().sum(), 2 * overlap
        else:
            value, slope = overlap.abs().sum(), overlap.sign()
        return Penalty(self.strength * value, grad_a=self.strength * (slope.mT @ past))
