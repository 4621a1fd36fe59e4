"""Final score over all test rows, Σ_t n[t] R[T][t] / Σ_t n[t]; higher is better."""

from __future__ import annotations

from clora_cli.metrics._matrix import Floats

__all__ = ["average_performance_micro"]


def average_performance_micro(
    scores: Floats, *, single: Floats | None = None, counts: Floats | None = None, zero_shot: Floats | None = None
) -> float:
    """Return the mean over tasks of the score after the last stage, weighted by test rows.

    Acc = Σ_{t=1..T} n[t] R[T][t] / Σ_{t=1..T} n[t]

    Needs: the last row and the number of test rows of every task.

    References:
        PS-LoRA, appendix A.2 (Acc). The published code of O-LoRA and N-LoRA reports it as well, under the name AA.
        Differs: rows without a usable reference are not counted; that code counts them.
    """
    if counts is None or not counts.size or counts.sum() == 0:
        return float("nan")
    return float(scores[-1] @ counts / counts.sum())
