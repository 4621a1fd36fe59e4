"""Mean gain over training each task alone, the first included, FWT = 1/T Σ_t (R[t][t] - a0[t]); higher is better."""

from __future__ import annotations

from clora_cli.metrics._matrix import Floats, mean

__all__ = ["forward_transfer_pfd"]


def forward_transfer_pfd(
    scores: Floats, *, single: Floats | None = None, counts: Floats | None = None, zero_shot: Floats | None = None
) -> float:
    """Return the mean over all tasks of the score right after learning minus that of training alone.

    FWT = 1/T Σ_{t=1..T} (R[t][t] - a0[t])

    The first task has nothing to transfer from, so its term is chance between two trainings.
    Needs: the diagonal and the scores of training alone.

    References:
        PFD, section 4.1.
        Differs: both terms use one metric a task; the published code takes exact match for the first and Rouge-L for
        the second on some tasks.
    """
    if single is None:
        return float("nan")
    return mean(scores.diagonal() - single)
