"""A whole report: the material and everything that is computed from it (layer L3)."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from clora_cli.base.errors import MismatchError
from clora_cli.base.progress import Progress, Silent
from clora_cli.reporting.anatomy import Anatomy, examine
from clora_cli.reporting.bootstrap import Significance, compare
from clora_cli.reporting.collect import Material
from clora_cli.reporting.cost_rows import CostRow, cost_rows
from clora_cli.reporting.footing import footing_notes
from clora_cli.reporting.general_ability import GeneralAbility, general_abilities
from clora_cli.reporting.grouping import bring_together
from clora_cli.reporting.method_results import Results
from clora_cli.reporting.provenance import Provenance, provenance_of
from clora_cli.reporting.row_changes import TaskChange, changes_since_learned, changes_to
from clora_cli.reporting.runs import assemble
from clora_cli.reporting.standings import Standings, standings
from clora_cli.reporting.sweeps import Sweep, sweeps_of
from clora_cli.reporting.task_groups import GroupTable, group_tables

__all__ = ["Report", "make_report"]


@dataclass(frozen=True, eq=False)
class Report:
    """The material and the results; everything else is computed when it is first asked for.

    Attributes:
        material: The files and packages that were read.
        results: The runs, by method and order.
        chosen_pairs: The pairs of methods that the user wants compared.
        command: The command line that makes the report.
        progress: Follows the examination of adapters.
    """

    material: Material
    results: Results
    chosen_pairs: tuple[Significance, ...]
    command: str
    progress: Progress

    @cached_property
    def standings(self) -> Standings:
        """The table of the papers."""
        return standings(self.results)

    @cached_property
    def footing(self) -> tuple[str, ...]:
        """What the tables compare although it was trained under different protocols."""
        return tuple(footing_notes(self.results))

    @cached_property
    def pairs(self) -> tuple[Significance, ...]:
        """The pairs that the user chose, or else all that can be compared."""
        return self.chosen_pairs or tuple(_comparable(self.results))

    @cached_property
    def costs(self) -> tuple[CostRow, ...]:
        """The cost of each method."""
        return tuple(cost_rows(self.material.costs))

    @cached_property
    def general_abilities(self) -> tuple[GeneralAbility, ...]:
        """What was left of general ability at each stage."""
        return tuple(general_abilities(self.results.runs))

    @cached_property
    def sweeps(self) -> tuple[Sweep, ...]:
        """The methods whose settings were crossed."""
        return tuple(sweeps_of(self.results))

    @cached_property
    def task_groups(self) -> tuple[GroupTable, ...]:
        """Mean scores by group of tasks: of those never learned, and of the parts of unions."""
        return tuple(group_tables(self.results))

    @cached_property
    def row_changes(self) -> tuple[TaskChange, ...]:
        """What each stage did to the rows of all earlier tasks, then what became of each task's since it was learned."""
        return (*changes_to(self.results.runs), *changes_since_learned(self.results.runs))

    @cached_property
    def anatomy(self) -> Anatomy:
        """The adapters from the inside."""
        return examine(self.material.packages, self.progress)

    @cached_property
    def provenance(self) -> Provenance:
        """Where the numbers come from."""
        return provenance_of(self.material, self.results.runs)

    def averages(self) -> list[float]:
        """Return the average performance of each method over all orders, percent."""
        return [group.average(self.results.orders, "average-performance").mean for group in self.results.groups]


def make_report(
    material: Material,
    *,
    pairs: Sequence[tuple[str, str]] = (),
    command: str = "",
    progress: Progress | None = None,
) -> Report:
    """Merge scores into runs and compare the methods that the user chose.

    Args:
        material: The files and packages that were read.
        pairs: The labels of methods to compare.
        command: The command line, for the record.
        progress: Follows the examination of adapters.

    Raises:
        MismatchError: If scores contradict one another, or a pair cannot be compared.
        UnknownNameError: If a pair names no method.
    """
    results = bring_together(assemble(material.scores, material.manifests))
    chosen = tuple(compare(results.group(first), results.group(second)) for first, second in pairs)
    return Report(material, results, chosen, command, progress or Silent())


def _comparable(results: Results) -> list[Significance]:
    comparisons = []
    for first, second in itertools.combinations(results.groups, 2):
        try:
            comparisons.append(compare(first, second))
        except MismatchError:  # the user did not choose this pair
            continue
    return comparisons
