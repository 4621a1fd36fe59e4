"""How alike a run's states answer: the share of test rows on which two of them give the same answer (layer L3)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from clora_cli.reporting.scored_run import Floats, Run

__all__ = ["OutputSimilarity", "output_similarities"]


@dataclass(frozen=True, eq=False)
class OutputSimilarity:
    """One run's states, compared by what they answer.

    Attributes:
        label: The run's.
        states: The task learned last at each; empty for the base model.
        rows: Test rows of all tasks that every state answered.
        shares: (state, state), percent of the rows that both answer alike; 100 on the diagonal.
    """

    label: str
    states: tuple[str, ...]
    rows: int
    shares: Floats


def output_similarities(runs: Sequence[Run]) -> Iterator[OutputSimilarity]:
    """Yield the comparison of each run whose scores files keep answers of two states or more."""
    for run in runs:
        states = [state for state in ("", *run.order) if any(after == state for after, _ in run.answers)]
        tasks = [task for task in run.columns if all((state, task) in run.answers for state in states)]
        counts = [{len(run.answers[state, task]) for state in states} for task in tasks]
        if len(states) < 2 or not tasks or any(len(count) > 1 for count in counts):
            continue
        said = np.array([np.concatenate([run.answers[state, task] for task in tasks]) for state in states])
        shares = 100 * (said[:, None] == said[None]).mean(axis=2)
        yield OutputSimilarity(run.label, tuple(states), said.shape[1], shares)
