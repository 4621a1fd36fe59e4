"""What runs left of general ability, stage by stage (layer L3)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from clora_cli.reporting.bootstrap import Estimate
from clora_cli.reporting.row_changes import row_change
from clora_cli.reporting.scored_run import Run
from clora_cli.store.scores import Retention

__all__ = ["GeneralAbility", "general_abilities"]


@dataclass(frozen=True)
class GeneralAbility:
    """One probe at one stage of one run.

    Attributes:
        label: The run's.
        stage: How many tasks had been learned.
        after: The task that was learned last.
        probe: The probe's name.
        kept: What was measured.
        change: Score at this stage minus that of the base model, percent points, with its interval over the probe's rows; None
            for a probe without questions.
    """

    label: str
    stage: int
    after: str
    probe: str
    kept: Retention
    change: Estimate | None


def general_abilities(runs: Sequence[Run]) -> Iterator[GeneralAbility]:
    """Yield every probe at every stage of every run."""
    for run in runs:
        for stage, after in enumerate(run.order, start=1):
            for probe, kept in run.retention.get(after, {}).items():
                yield GeneralAbility(run.label, stage, after, probe, kept, _change(kept))


def _change(kept: Retention) -> Estimate | None:
    if kept.before is None or kept.after is None:
        return None
    change = row_change(kept.before.per_row, kept.after.per_row)
    return change.estimate if change else None
