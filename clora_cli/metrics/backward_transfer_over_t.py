"""Backward transfer divided by T instead of T-1, BWT = 1/T Σ_{t<T} (R[T][t] - R[t][t]); higher is better."""

from __future__ import annotations

from clora_cli.metrics._matrix import Floats

__all__ = ["backward_transfer_over_t"]


def backward_transfer_over_t(
    scores: Floats, *, single: Floats | None = None, counts: Floats | None = None, zero_shot: Floats | None = None
) -> float:
    """Return the sum over all tasks but the last of the final score minus the one right after learning, over T.

    BWT = 1/T Σ_{t=1..T-1} (R[T][t] - R[t][t])

    This is ``backward-transfer`` times (T-1)/T; 0 for a single task.
    Needs: the last row and the diagonal, save the last task's score.

    References:
        The published scoring code of SAPT, for comparison with figures printed from it.
        Differs: nothing.
    """
    if not len(scores):
        return float("nan")
    return float((scores[-1, :-1] - scores.diagonal()[:-1]).sum() / len(scores))
