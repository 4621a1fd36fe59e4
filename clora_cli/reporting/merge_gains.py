"""What a way of combining adapters gains on each task over their plain sum (layer L3)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from clora_cli.reporting.method_results import Results
from clora_cli.reporting.scored_run import Floats

__all__ = ["MergeGains", "merge_gains"]

_PLAIN = ("sum", "auto")


@dataclass(frozen=True, eq=False)
class MergeGains:
    """Scores after the last stage, against those of the same adapters' sum.

    Attributes:
        tasks: The tasks, in the order of learning.
        labels: The combinations.
        gains: (combination, task), percent points; NaN where not scored.
    """

    tasks: tuple[str, ...]
    labels: tuple[str, ...]
    gains: Floats


def merge_gains(results: Results) -> MergeGains | None:
    """Compare the runs of one package, those of other combinations with that of the sum; None if there are none to compare.

    Of several packages the first that was combined in two ways counts.
    """
    for plain in results.runs:
        others = [run for run in results.runs if run is not plain and run.package == plain.package]
        if plain.combine in _PLAIN and others:
            tasks = plain.order or plain.columns
            labels = tuple(run.combine if run.combine not in _PLAIN else run.label for run in others)
            return MergeGains(tasks, labels, np.stack([run.final(tasks) - plain.final(tasks) for run in others]))
    return None
