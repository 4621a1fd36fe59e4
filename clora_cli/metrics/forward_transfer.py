"""Mean gain over training each later task alone, FWT = 1/(T-1) Σ_{t≥2} (R[t][t] - a0[t]); higher is better."""

from __future__ import annotations

from clora_cli.metrics._matrix import Floats, mean

__all__ = ["forward_transfer"]


def forward_transfer(
    scores: Floats, *, single: Floats | None = None, counts: Floats | None = None, zero_shot: Floats | None = None
) -> float:
    """Return the mean over all tasks but the first of the score right after learning minus that of training alone.

    FWT = 1/(T-1) Σ_{t=2..T} (R[t][t] - a0[t])

    NaN for a single task.
    Needs: the diagonal and the scores of training alone, save the first task's.

    References:
        ASO-LoRA, equation 17; PS-LoRA, appendix A.2.
        Differs: PS-LoRA prints R[t-1][t] - a0[t], which would be strongly negative and contradicts its table 2; read
        here as R[t][t] - a0[t].
    """
    if single is None:
        return float("nan")
    return mean(scores.diagonal()[1:] - single[1:])
