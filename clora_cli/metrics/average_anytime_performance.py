"""Mean over stages of the mean score so far, AAA = 1/T Σ_s 1/s Σ_{t≤s} R[s][t]; higher is better."""

from __future__ import annotations

import numpy as np

from clora_cli.metrics._matrix import Floats, mean

__all__ = ["average_anytime_performance"]


def average_anytime_performance(
    scores: Floats, *, single: Floats | None = None, counts: Floats | None = None, zero_shot: Floats | None = None
) -> float:
    """Return the mean over stages of the mean score on the tasks learned until then.

    AAA = 1/T Σ_{s=1..T} 1/s Σ_{t=1..s} R[s][t]

    It asks how well the model did all along, where average performance asks at the end alone.
    Needs: the lower triangle with its diagonal.

    References:
        PS-LoRA, tables 3 and 4 (AAA). Caccia et al., New Insights on Reducing Abrupt Representation Change in Online
        Continual Learning, 2022, arXiv:2104.05025, section 5 (average anytime accuracy).
        Differs: PS-LoRA gives no equation. Caccia et al. average over steps of training, here over tasks learned.
    """
    return mean(np.array([scores[stage, : stage + 1].mean() for stage in range(len(scores))]))
