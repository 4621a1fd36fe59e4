"""Mean loss from the best at any earlier stage, FM = 1/(T-1) Σ_{t<T} (max_{s<T} R[s][t] - R[T][t]); lower is better."""

from __future__ import annotations

import numpy as np

from clora_cli.metrics._matrix import Floats, mean

__all__ = ["forgetting_rate_any"]


def forgetting_rate_any(
    scores: Floats, *, single: Floats | None = None, counts: Floats | None = None, zero_shot: Floats | None = None
) -> float:
    """Return the mean over all tasks but the last of the best score at any earlier stage minus the final one.

    FM = 1/(T-1) Σ_{t=1..T-1} (max_{1≤s<T} R[s][t] - R[T][t])

    The maximum includes stages before the task was learned; it differs from ``forgetting-rate`` only where one of
    those wins. NaN for a single task.
    Needs: all of the matrix save the last column.

    References:
        ASO-LoRA, equations 15 and 16 (FM, forgetting measure).
        Differs: nothing.
    """
    last = len(scores) - 1
    losses = [scores[:last, task].max() - scores[last, task] for task in range(last)]
    return mean(np.array(losses))
