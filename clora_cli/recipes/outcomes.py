"""What came of a recipe: methods beside one another, means over seeds (layer L3)."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path
from typing import Any

from clora_cli.recipes.steps import Unit
from clora_cli.reporting import assemble, summarise
from clora_cli.reporting.footing import unequal
from clora_cli.reporting.scored_run import Run
from clora_cli.reporting.training_protocol import Protocol, protocol_of
from clora_cli.store.package import read_package
from clora_cli.store.scores import read_scores
from clora_cli.training.composition import compose

__all__ = ["SHOWN", "MethodResult", "method_results", "results_table", "scored_run", "unequal_footing", "unit_metrics"]

SHOWN = {"AP": "average-performance", "F.Ra": "forgetting-rate", "BWT": "backward-transfer"}


@dataclass(frozen=True)
class MethodResult:
    """One method's metrics.

    Attributes:
        label: The method's label.
        seeds: Metric values by name, for each seed whose last stage is scored.
    """

    label: str
    seeds: Mapping[int, Mapping[str, float]]

    def mean(self, metric: str) -> float:
        """Return a metric's mean over seeds; NaN where no seed has it."""
        values = self._values(metric)
        return statistics.fmean(values) if values else math.nan

    def deviation(self, metric: str) -> float:
        """Return a metric's sample standard deviation over seeds; NaN for fewer than two."""
        values = self._values(metric)
        return statistics.stdev(values) if len(values) > 1 else math.nan

    def _values(self, metric: str) -> list[float]:
        return [metrics[metric] for metrics in self.seeds.values() if not math.isnan(metrics.get(metric, math.nan))]

    def data(self) -> dict[str, Any]:
        """Return the metrics as JSON data, null where one is not known."""
        names = sorted({name for metrics in self.seeds.values() for name in metrics})
        return {
            "method": self.label,
            "seeds": {
                str(seed): {name: _known(metrics[name]) for name in metrics} for seed, metrics in self.seeds.items()
            },
            "mean": {name: _known(self.mean(name)) for name in names},
            "deviation": {name: _known(self.deviation(name)) for name in names},
        }


def scored_run(unit: Unit) -> Run | None:
    """Return a unit as far as it is scored: up to the last stage before which none is missing; None before the first one.

    Raises:
        CloraError: If its scores files cannot be read, or do not go together.
    """
    there = list(takewhile(Path.exists, map(unit.scores, unit.stages)))
    # A stage's file names the adapters that were given; together they are one package.
    files = [replace(read_scores(path), package=str(unit.package)) for path in there]
    return assemble(files)[0] if files else None


def unit_metrics(unit: Unit) -> dict[str, float]:
    """Return the metrics of a unit whose stages are all scored; empty for any other.

    Raises:
        CloraError: If its scores files do not go together.
    """
    if not all(unit.scores(stage).exists() for stage in unit.stages):
        return {}
    run = scored_run(unit)
    return summarise(run) if run else {}


def method_results(units: Sequence[Unit]) -> list[MethodResult]:
    """Return the metrics of each method, in the recipe's order, over those seeds that are complete.

    Raises:
        CloraError: As ``unit_metrics``.
    """
    labels = dict.fromkeys(unit.entry.label for unit in units)
    found = {unit: unit_metrics(unit) for unit in units}
    return [
        MethodResult(label, {u.seed: metrics for u, metrics in found.items() if u.entry.label == label and metrics})
        for label in labels
    ]


def unequal_footing(units: Sequence[Unit]) -> list[str]:
    """Return what differs between the protocols that a recipe's methods were trained under, entry by entry.

    Raises:
        CloraError: If an adapter is damaged.
    """
    protocols: dict[str, Protocol] = {}
    for unit in units:
        if (
            not unit.entry.is_union
            and unit.package.is_dir()
            and compose(unit.entry.method, unit.entry.option_texts(1)).lead.trains
        ):
            members = read_package([unit.package], missing_ok=True)
            protocols.setdefault(
                unit.entry.label, protocol_of([member.manifest for member in members if member.manifest])
            )
    return unequal(protocols)


def results_table(results: Sequence[MethodResult]) -> str:
    """Return a Markdown table: methods in rows, the three common metrics in columns, means over seeds."""
    width = max([len("method"), *(len(result.label) for result in results)])
    several = any(len(result.seeds) > 1 for result in results)
    cell = 14 if several else 7
    lines = [f"| {'method':{width}} | {'seeds':>5} | " + " | ".join(f"{name:>{cell}}" for name in SHOWN) + " |"]
    lines.append(f"| {'-' * width} | ----: | " + " | ".join("-" * (cell - 1) + ":" for _ in SHOWN) + " |")
    for result in results:
        cells = [f"{_spelled(result, metric):>{cell}}" for metric in SHOWN.values()]
        lines.append(f"| {result.label:{width}} | {len(result.seeds):>5} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _spelled(result: MethodResult, metric: str) -> str:
    mean, deviation = result.mean(metric), result.deviation(metric)
    if math.isnan(mean):
        return ""
    return f"{mean:.1f}" if math.isnan(deviation) else f"{mean:.1f} ± {deviation:.1f}"


def _known(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 4)
