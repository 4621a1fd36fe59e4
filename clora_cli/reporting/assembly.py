"""A whole report: what was found, what it amounts to, and each form that it is written in (layer L3)."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from clora_cli.base.errors import MismatchError
from clora_cli.base.legible import markdown
from clora_cli.base.progress import Progress, Silent
from clora_cli.presenting.export import report_json
from clora_cli.presenting.markdown_tables import (
    cost_table,
    matrix_table,
    metrics_tables,
    significance_table,
    standings_table,
)
from clora_cli.presenting.route_forms import confusion_table
from clora_cli.reporting.anatomy import Anatomy, examine
from clora_cli.reporting.bootstrap import RESAMPLES, Significance, compare
from clora_cli.reporting.collect import Material
from clora_cli.reporting.cost_rows import CostRow, cost_rows
from clora_cli.reporting.footing import footing_notes
from clora_cli.reporting.grouping import bring_together
from clora_cli.reporting.method_results import Results
from clora_cli.reporting.runs import assemble
from clora_cli.reporting.standings import Standings, standings

__all__ = ["Report", "make_report", "significance_note"]

_MOST = 4  # matrices printed on a terminal; a file gets them all


@dataclass(frozen=True, eq=False)
class Report:
    """What was found and what it amounts to; everything else is worked out when it is asked for.

    Attributes:
        material: What was found.
        results: The runs, by method and order.
        asked: The pairs that were asked for.
        command: The command line that makes the report.
        progress: Who is told while adapters are examined.
    """

    material: Material
    results: Results
    asked: tuple[Significance, ...]
    command: str
    progress: Progress

    @cached_property
    def standings(self) -> Standings:
        """The table in the papers' form."""
        return standings(self.results)

    @cached_property
    def footing(self) -> tuple[str, ...]:
        """What of the tables does not stand on equal footing."""
        return tuple(footing_notes(self.results))

    @cached_property
    def pairs(self) -> tuple[Significance, ...]:
        """The pairs that were asked for, or else all that can be compared."""
        return self.asked or tuple(_comparable(self.results))

    @cached_property
    def costs(self) -> tuple[CostRow, ...]:
        """What methods cost."""
        return tuple(cost_rows(self.material.costs))

    @cached_property
    def anatomy(self) -> Anatomy:
        """What the adapters look like."""
        return examine(self.material.packages, self.progress)

    def averages(self) -> list[str]:
        """Return the average performance of each method over all orders, percent, as text."""
        found = (group.average(self.results.orders, "average-performance").mean for group in self.results.groups)
        return [f"{value:.2f}" for value in found]

    def text(self, *, short: bool = False) -> str:
        """Return the report as Markdown; ``short`` leaves out matrices where there are more than four."""
        parts = []
        if len(self.results.groups) > 1 or self.standings.repeated:
            parts.append(f"## Results\n\n{standings_table(self.standings)}")
        if self.footing:
            parts.append("## Unequal footing\n\n" + "".join(f"- {markdown(note)}\n" for note in self.footing))
        if self.asked:
            parts.append(
                f"## Significance\n\n{significance_table(self.asked)}\n{markdown(significance_note(self.asked))}\n"
            )
        if not short or len(self.results.series) <= _MOST:
            several = len(self.results.orders) > 1
            for one in self.results.series:
                order = f", {markdown(one.order.label)}" if several else ""
                repeated = f", mean of {len(one.runs)} runs" if len(one.runs) > 1 else ""
                parts.append(f"## {markdown(one.label)}{order}{repeated}\n\n{matrix_table(one.mean)}")
        if self.results.groups:
            parts.append(f"## Metrics\n\n{metrics_tables(self.results)}")
        for path, routes in self.material.routes.items():
            parts.append(f"## Routing: {markdown(str(path))}\n\n```\n{confusion_table(routes)}\n```\n")
        if self.costs:
            parts.append(f"## Cost\n\n{cost_table(self.costs)}")
        return "\n".join(parts)

    def data(self) -> dict[str, Any]:
        """Return the report as a JSON object."""
        return report_json(self.results, pairs=self.pairs, costs=self.costs, footing=self.footing)


def make_report(
    material: Material,
    *,
    pairs: Sequence[tuple[str, str]] = (),
    command: str = "",
    progress: Progress | None = None,
) -> Report:
    """Work out what was found.

    Args:
        material: What was found.
        pairs: Labels of methods to compare.
        command: The command line, for the record.
        progress: Is told while adapters are examined.

    Raises:
        MismatchError: If scores contradict one another, or a pair cannot be compared.
        UnknownNameError: If a pair names no method.
    """
    results = bring_together(assemble(material.scores, material.manifests))
    asked = tuple(compare(results.group(first), results.group(second)) for first, second in pairs)
    return Report(material, results, asked, command, progress or Silent())


def significance_note(pairs: Sequence[Significance]) -> str:
    """Return what a table of pairs shows, in a sentence."""
    shared = ", ".join(dict.fromkeys(order for pair in pairs for order in pair.orders))
    return (
        f"Paired bootstrap over test rows after the last task ({shared}), stratified by task, {RESAMPLES} resamples; rows' "
        "scores are averaged over a method's runs first. p is two-sided and not corrected for the number of pairs."
    )


def _comparable(results: Results) -> list[Significance]:
    found = []
    for first, second in itertools.combinations(results.groups, 2):
        try:
            found.append(compare(first, second))
        except MismatchError:  # nobody asked for this pair
            continue
    return found
