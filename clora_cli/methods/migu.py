"""Train one LoRA on through all tasks, each step only where the layers answer strongest."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from clora_cli.base.intervals import check_option
from clora_cli.methods import Method, Run

__all__ = ["Migu"]


@dataclass(frozen=True, kw_only=True)
class Migu(Method):
    """Train one LoRA on through all tasks, each step only where the layers answer strongest.

    Of every optimizer step's gradient, the rows of lora_A and lora_B stay whose outputs have the largest magnitude, averaged
    over the step's tokens; ``floor((1 - share) * outputs)`` of each layer are set to zero (eq. 3-6). For lora_A the output
    is ``A x``, for lora_B that of the whole layer, ``W x + s B A x``.

    Beside a method that builds on earlier adapters it filters that one's gradients: ``inc-lora+migu``, ``o-lora+migu``.

    Args:
        share: The share of rows that is updated, in [0, 1]; 1 is seq-lora. The paper's threshold T is 1 - share.
        first: Whether the first task's steps are filtered too.

    References:
        Du et al., Unlocking Continual Learning Abilities in Language Models (MIGU), 2024, arXiv:2406.17245, section 3;
        T = 0.7 there is the best of 0.3 to 0.9 on held-out rows, and the published scripts' value.
        Differs: padding does not count, so that batches may be split at will; the published code averages over it.
        The paper adds it to one LoRA for all tasks, as here, to IncLoRA and to O-LoRA, in its Table 2; what PS-LoRA
        (arXiv:2512.08960) calls MIGU is ``inc-lora+migu``.
        As in the published code, gradients alone are set to zero (momentum of earlier steps goes on), and the first task is
        trained whole. The L1 norm of section 3.2 is the same for all outputs of a layer and decides nothing.
    """

    past = "none"
    start = "previous"
    combine = "last"
    joins = True

    share: float = 0.3
    first: bool = False

    def __post_init__(self) -> None:
        """Check the options."""
        check_option("migu", "share", self.share, "[0, 1]")

    def begin(self, run: Run) -> None:
        """Watch the layers, where steps are filtered."""
        if run.past or self.first:
            run.watch()

    def gradients(self, run: Run) -> None:
        """Clear the gradients of all rows but the strongest."""
        for found in run.activities():
            run.scale_rows(found.sites, self.strongest(found.a), self.strongest(found.b))

    def strongest(self, magnitudes: Tensor) -> Tensor:
        """Return 1 for outputs whose rows are updated and 0 for the others, shape (site, output)."""
        # The small number mends products such as 0.7 * 10, which may come out just below a whole number.
        masked = min(math.floor((1 - self.share) * magnitudes.shape[-1] + 1e-9), magnitudes.shape[-1])
        weakest = magnitudes.argsort(dim=-1, stable=True)[..., :masked]
        return torch.ones_like(magnitudes).scatter_(-1, weakest, 0.0)
