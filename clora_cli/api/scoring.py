"""What ``clora eval`` and ``api.eval`` both do (layer L4): plan a scoring with its limits, carry it out, judge it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from clora_cli.base.errors import OptionError
from clora_cli.base.folder_names import check_file
from clora_cli.base.progress import Progress
from clora_cli.options import EvalOptions
from clora_cli.processes.ranks import is_main_process

if TYPE_CHECKING:
    from clora_cli.data import Task
    from clora_cli.reporting.slices import Verdict
    from clora_cli.store.adapter_folder import AdapterFolder
    from clora_cli.store.scores import Scores

__all__ = ["Scoring", "plan_scoring"]


@dataclass(frozen=True)
class Scoring:
    """A scoring that has been checked as far as possible without the base model.

    Attributes:
        package: The adapters' paths as given, to record.
        members: The adapters.
        tasks: What they are scored on.
        options: How.
        limits: Names of limits, such as ``fail_under``, to their values; None for no limit.
        earlier: Scores of earlier evaluations, for forgetting.
        out: Where the scores are written; None for nowhere.
    """

    package: str
    members: Sequence[AdapterFolder]
    tasks: Sequence[Task]
    options: EvalOptions
    limits: Mapping[str, float | None]
    earlier: Sequence[Scores]
    out: Path | None

    def carry_out(self, progress: Progress) -> tuple[Scores, Verdict]:
        """Score, write the scores, and judge them by the limits.

        Raises:
            CloraError: If adapters, base model, tasks and options do not fit together, or the scores cannot be written.
        """
        from clora_cli.evaluation import evaluate
        from clora_cli.reporting.slices import judge
        from clora_cli.store.scores import write_scores

        scores = evaluate(self.members, self.tasks, self.options, package=self.package, progress=progress)
        if self.out is not None and is_main_process():
            write_scores(scores, self.out)
        return scores, judge(scores, self.tasks, self.options.split, self.earlier, self.limits)


def plan_scoring(
    adapters: Sequence[Path],
    options: EvalOptions,
    *,
    limits: Mapping[str, float | None],
    baseline: Sequence[Path],
    out: Path | None,
    mend: str,
    progress: Progress,
) -> Scoring:
    """Read and check what is to be scored.

    Args:
        adapters: A package, an adapter folder, or several; none for the base model alone.
        options: How.
        limits: As for ``Scoring``; checked already.
        baseline: Scores files of earlier evaluations.
        out: As for ``Scoring``.
        mend: What to do if adapters do not tell their tasks, for messages.
        progress: Told what was noticed about the tasks' rows.

    Raises:
        CloraError: Whatever is missing, damaged, wrong or does not fit together.
    """
    from clora_cli.data import scored_tasks, tell_notes
    from clora_cli.evaluation.evaluate import check_scorable
    from clora_cli.reporting.limits import read_baselines
    from clora_cli.store.package import read_package

    check_file(out, "--out")
    members = read_package(adapters)
    if limits["max_general_loss"] is not None and not members:  # nothing is lost without any, whatever the limit
        raise OptionError(
            "--max-general-loss compares adapters with their base model, and none are named: name some, or leave it out",
            code="option-has-no-effect",
        )
    tasks = scored_tasks(options.data, members, mend, columns=options.columns, prompts=bool(options.scorer))
    earlier = read_baselines(baseline, limits["max_forgetting"], options.matrix, tasks)
    check_scorable(tasks, options)
    tell_notes(tasks, progress)
    return Scoring(" ".join(map(str, adapters)), members, tasks, options, limits, earlier, out)
