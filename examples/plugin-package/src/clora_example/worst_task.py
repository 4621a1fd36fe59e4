"""Score of the worst task after the last stage, W = min_t R[T][t]; higher is better."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["worst_task"]

Floats = NDArray[np.float64]


def worst_task(
    scores: Floats, *, single: Floats | None = None, counts: Floats | None = None, zero_shot: Floats | None = None
) -> float:
    """Return the lowest score after the last stage.

    W = min_{1≤t≤T} R[T][t]

    Needs: the last row.

    References:
        The minimum in place of the mean of average performance (ACC): Lopez-Paz and Ranzato, Gradient Episodic Memory
        for Continual Learning, 2017, arXiv:1706.08840, eq. 2.
        Differs: a mean hides a task that was forgotten; the minimum does not.
    """
    return float(scores[-1].min()) if scores.size else float("nan")
