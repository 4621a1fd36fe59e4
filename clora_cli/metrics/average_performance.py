"""Mean final score over tasks, AP = 1/T Σ_t R[T][t]; higher is better."""

from __future__ import annotations

from clora_cli.metrics._matrix import Floats, mean

__all__ = ["average_performance"]


def average_performance(
    scores: Floats, *, single: Floats | None = None, counts: Floats | None = None, zero_shot: Floats | None = None
) -> float:
    """Return the unweighted mean over tasks of the score after the last stage.

    AP = 1/T Σ_{t=1..T} R[T][t]

    Needs: the last row.

    References:
        PFD, section 4.1 (AP); N-LoRA, equation 5, ASO-LoRA, equation 14, and CAST, equation 14 (all three: AA).
        Differs: the published code of O-LoRA and N-LoRA reports ``average-performance-micro`` under the name AA.
    """
    return mean(scores[-1:])
