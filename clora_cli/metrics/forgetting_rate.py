"""Mean loss since a task's best, F.Ra = 1/(T-1) Σ_{t<T} (max_{t≤s<T} R[s][t] - R[T][t]); lower is better."""

from __future__ import annotations

import numpy as np

from clora_cli.metrics._matrix import Floats, mean

__all__ = ["forgetting_rate"]


def forgetting_rate(
    scores: Floats, *, single: Floats | None = None, counts: Floats | None = None, zero_shot: Floats | None = None
) -> float:
    """Return the mean over all tasks but the last of the best score since it was learned minus the final one.

    F.Ra = 1/(T-1) Σ_{t=1..T-1} (max_{t≤s<T} R[s][t] - R[T][t])

    Negative when the last stage improved old tasks. NaN for a single task.
    Needs: the lower triangle with its diagonal, save the last task's score.

    References:
        PFD, section 4.1 (F.Ra); N-LoRA, equation 6 (F.Ra); PS-LoRA, appendix A.2 (FR).
        Differs: N-LoRA defines a[i,j] task first but its equation 6 indexes stage first, read here as stage first.
        PS-LoRA prints the maximum over j ≤ i, which contradicts its table 2; read here as over i ≤ j < N.
    """
    last = len(scores) - 1
    losses = [scores[task:last, task].max() - scores[last, task] for task in range(last)]
    return mean(np.array(losses))
