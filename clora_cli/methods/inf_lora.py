"""Let each LoRA read only directions of its task's inputs that no earlier task used."""

from __future__ import annotations

from dataclasses import dataclass

from clora_cli.base.intervals import check_option
from clora_cli.methods._input_bases import InputBases

__all__ = ["InfLora"]


@dataclass(frozen=True, kw_only=True)
class InfLora(InputBases):
    """Let each LoRA read only directions of its task's inputs that no earlier task used.

    At each site C is the mean of ``x x^T`` over the inputs of the task's training rows, and M an orthonormal basis of what
    earlier tasks' inputs span. ``A_t`` is frozen: the leading left singular vectors of ``C - M M^T C``, transposed. Only
    ``B_t`` is trained, from zero, on top of the frozen sum of earlier deltas. On inputs within M's span the new LoRA does
    nothing. At the end M grows by the fewest leading left singular vectors of ``C - M M^T C`` with which it holds the share
    eps_t of C's energy, with ``eps_t = energy + (1 - energy) t / tasks``.

    Args:
        energy: The share of the energy of C, the sum of its squared entries, that M holds, above 0 and up to 1. The default is
            published for images; the inputs of language models share a direction that may hold it alone: 0.999 or more there.
        tasks: The number of tasks after which M is to hold all of it, at least 1; 0 leaves the share as it is.

    References:
        Liang and Li, InfLoRA: Interference-Free Low-Rank Adaptation for Continual Learning, CVPR 2024, arXiv:2404.00228,
        eq. 4-8; M as in its DualGPM.
        Differs: M itself is always kept; the published code keeps its complement once that is smaller.
        Differs: the direction that crosses the threshold is taken; the published code leaves it out.
        Differs: where C has fewer than rank directions left, random ones orthogonal to M fill up.
        Differs: ``A_t``'s rows have the norm of a fresh LoRA's, ``1 / sqrt(3)``, as in the published code.
    """

    energy: float = 0.98
    tasks: int = 0

    def __post_init__(self) -> None:
        """Check the options."""
        check_option("inf-lora", "energy", self.energy, "(0, 1]")
        check_option("inf-lora", "tasks", self.tasks, "[0, inf)")
