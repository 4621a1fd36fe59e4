"""Mean zero-shot gain right before a task is learned, FWT = 1/(T-1) Σ_{t≥2} (R[t-1][t] - z[t]); higher is better."""

from __future__ import annotations

from clora_cli.metrics._matrix import Floats, mean

__all__ = ["forward_transfer_gem"]


def forward_transfer_gem(
    scores: Floats, *, single: Floats | None = None, counts: Floats | None = None, zero_shot: Floats | None = None
) -> float:
    """Return the mean over all tasks but the first of the score right before learning minus the base model's.

    FWT = 1/(T-1) Σ_{t=2..T} (R[t-1][t] - z[t])

    It asks what earlier tasks taught about a task never trained on. NaN for a single task.
    Needs: the entries right above the diagonal and row 0, the base model alone, save the first task's score.

    References:
        Lopez-Paz & Ranzato, Gradient Episodic Memory for Continual Learning, 2017, arXiv:1706.08840, section 2.
        Differs: z is the pretrained base model, where GEM takes a randomly initialised network.
    """
    if zero_shot is None:
        return float("nan")
    return mean(scores.diagonal(1) - zero_shot[1:])
