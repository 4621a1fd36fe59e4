"""Train one LoRA on through all tasks, no step against the mean gradient of remembered rows."""

from __future__ import annotations

from dataclasses import dataclass

from clora_cli.base.intervals import check_option
from clora_cli.methods import Run
from clora_cli.methods._remembered import Remembered

__all__ = ["AGem"]


@dataclass(frozen=True, kw_only=True)
class AGem(Remembered):
    """Train one LoRA on through all tasks, no step against the mean gradient of remembered rows.

    ``g' = g - <g, m> / <m, m> m`` where ``<g, m> < 0``, else ``g' = g`` (eq. 11), with the gradient g of a whole optimizer
    step and m, that of the mean loss of rows that are drawn from all memories anew for every step. Remembered rows are not
    trained on. Beside another method it filters that one's gradients: ``inc-lora+a-gem``.

    Args:
        rows: Rows of each earlier task in the memory at most; 0 for all.
        sample: Remembered rows that m is taken of in each step, one forward and backward pass each; 0 for all.
        pseudo: A file of ``clora synthesize``, whose rows take the place of the earlier tasks' own.

    References:
        Chaudhry et al., Efficient Lifelong Learning with A-GEM, ICLR 2019, arXiv:1812.00420, eq. 11.
        Differs: over the LoRA's entries instead of all weights of the model.
        Differs: the step is projected with the penalties of the method that it joins, before clipping and before the optimizer, whose
        momentum may still point elsewhere. Public code for language models does it after the step, where it changes nothing.
        Differs: m is taken without dropout.
    """

    def __post_init__(self) -> None:
        """Check the options."""
        check_option("a-gem", "rows", self.rows, "[0, inf)")
        check_option("a-gem", "sample", self.sample, "[0, inf)")

    def gradients(self, run: Run) -> None:
        """Take what points against the memory out of the step."""
        if not run.memory:
            return
        slopes = run.slopes(self.drawn(run, run.memory))
        pairs = [(own.grad, slope) for own, slope in slopes if own.grad is not None]
        along = sum(float((grad * slope).sum()) for grad, slope in pairs)
        if along < 0:
            size = sum(float(slope.square().sum()) for _, slope in pairs)
            for grad, slope in pairs:
                grad.sub_(slope, alpha=along / size)
