"""Mean change of old tasks since each was learned, BWT = 1/(T-1) Σ_{t<T} (R[T][t] - R[t][t]); higher is better."""

from __future__ import annotations

from clora_cli.metrics._matrix import Floats, mean

__all__ = ["backward_transfer"]


def backward_transfer(
    scores: Floats, *, single: Floats | None = None, counts: Floats | None = None, zero_shot: Floats | None = None
) -> float:
    """Return the mean over all tasks but the last of the final score minus the one right after learning.

    BWT = 1/(T-1) Σ_{t=1..T-1} (R[T][t] - R[t][t])

    Negative when old tasks were forgotten. NaN for a single task.
    Needs: the last row and the diagonal, save the last task's score.

    References:
        PFD, section 4.1; PS-LoRA, appendix A.2.
        Differs: nothing.
    """
    return mean(scores[-1:, :-1] - scores.diagonal()[:-1])
