"""Finished runs, as the claims of ``claims.yaml`` ask for them: scores with rows drawn again, adapters, costs."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

import numpy as np

from clora_cli.base import registry
from clora_cli.recipes.orders import orders
from clora_cli.reporting import Run, assemble, bring_together
from clora_cli.reporting.collect import Material, Package
from clora_cli.reporting.differences import MEASURES, Difference, difference, mean_over_pairs, value_of
from clora_cli.reporting.run_folders import RunFolder
from clora_cli.store.costs import Cost
from clora_cli.store.ledger import read_ledger

__all__ = ["Evidence", "Floats", "Table"]

Floats = Any  # numpy arrays; along an axis of draws the first entry is what was observed
Table = dict[tuple[tuple[str, ...], int | None], Floats]  # by tasks and seed


class Evidence:
    """Finished runs, as far as claims ask for them: those that have learned a whole order that a paper has.

    Args:
        material: What ``collect`` found.
        draws: How many times rows are drawn.
        sample_rows: Rows of each layer to count collisions in; 0 for all.
    """

    def __init__(self, material: Material, *, draws: int = 2000, sample_rows: int = 0) -> None:
        """Bring the runs together."""
        self.material, self.draws = material, draws
        self.results = bring_together(assemble(material.scores, material.manifests))
        self._counts: dict[str, Floats] = {}
        whole = set(orders().values())
        self.series = [series for series in self.results.series if series.order.tasks in whole]
        self._finished = {(run.folder, len(run.order)) for series in self.series for run in series.runs}
        self._difference = cache(lambda package: difference(package.members, rows=sample_rows))
        self.of_scores, self.of_adapters = cache(self._of_scores), cache(self._of_adapters)

    def runs(self, name: str, tasks: int) -> list[tuple[tuple[str, ...], Run]]:
        """Return the runs of a method, or of one evaluated in another way, and their tasks."""
        label, _, evaluation = name.partition(":")
        return [
            (series.order.tasks, run)
            for series in self.series
            if tasks in {0, len(series.order.tasks)}
            for run in series.runs
            if (run.folder.name or run.method) == label and _is_of(run, evaluation)
        ]

    def packages(self, name: str, tasks: int) -> Iterator[Package]:
        """Yield the packages of a method's runs, those of unfinished ones left out."""
        for package in self.material.packages:
            finished = (package.folder, len(package.members)) in self._finished
            if package.name == name and finished and tasks in {0, len(package.members)}:
                yield package

    def trainings(self, name: str, tasks: int) -> Table:
        """Return the costs of a method's trainings, task after task."""
        found: dict[Any, list[Cost]] = {}
        for path, costs in self.material.costs.items():
            for cost in sorted(costs, key=lambda cost: cost.stage):
                if cost.method == name and cost.step == "train":
                    found.setdefault((path, cost.seed), []).append(cost)
        return {
            (tuple(cost.task for cost in costs), seed): costs
            for (path, seed), costs in found.items()
            if (RunFolder(str(path.resolve().parent), name, seed), len(costs)) in self._finished
            and tasks in {0, len(costs)}
        }

    def matrix(self, run: Run, tasks: Sequence[str], columns: Sequence[str]) -> Floats:
        """Return scores of every draw, percent, shape (1 + draws, stage, column); NaN where rows are not known."""
        matrix = np.full((1 + self.draws, len(tasks), len(columns)), math.nan)
        for file in self.material.scores:
            if file.source in run.sources:
                for row in filter(lambda row: row.after, file.rows):
                    stage = tasks.index(row.after) if row.after in tasks else len(tasks) - 1
                    for task, cell in row.scores.items():
                        if cell.per_row and task in columns:
                            matrix[:, stage, list(columns).index(task)] = self._means(task, cell.per_row)
        return matrix

    def _means(self, task: str, rows: Sequence[float]) -> Floats:
        if task not in self._counts:
            self._counts[task] = self._drawn(task)
        counts = self._counts[task][:, : len(rows)]
        return 100 * counts @ np.array(rows, dtype=np.float64) / np.maximum(counts.sum(axis=1), 1)

    def _drawn(self, task: str) -> Floats:
        """Return how often each row of a task is in each draw, shape (1 + draws, row); early stages may score the first rows alone."""
        cells = [row.scores[task] for file in self.material.scores for row in file.rows if task in row.scores]
        rows = max(len(cell.per_row) for cell in cells)
        drawn = np.random.default_rng(zlib.crc32(task.encode())).multinomial(rows, [1 / rows] * rows, self.draws)
        return np.vstack([np.ones((1, rows)), drawn])

    def _of_scores(self, metric: str, name: str, tasks: int) -> Table:
        """Return a metric of each run in every draw, shape (1 + draws,), without runs that lack it.

        Runs that were scored on other numbers of rows are kept apart as other tasks are: their gap would be one of rows, too.
        """
        table: Table = {}
        for order, run in self.runs(name, tasks):
            columns = order if metric != "unseen" else () if run.at_once else tuple(sorted(run.unseen))
            if not columns:
                continue
            matrix = self.matrix(run, order, columns)
            values = matrix[:, -1].mean(axis=1) if metric == "unseen" else self._metric(metric, matrix)
            rows = dict(zip(run.columns, run.counts, strict=True))
            table[columns + tuple(f"{rows[task]:g} rows" for task in columns), run.seed] = values
        return {key: values for key, values in table.items() if not np.isnan(values).any()}

    def _metric(self, metric: str, matrices: Floats) -> Floats:
        function, nothing = registry.load("metrics", metric), np.zeros(matrices.shape[-1])
        # Against no score of training alone: it is the same for both methods of a gap.
        return np.array([function(matrix, single=nothing) for matrix in matrices])

    def _of_adapters(self, which: str, name: str, tasks: int) -> Table:
        """Return a measure of each run's adapters."""
        position, measure = which.split()
        table: Table = {}
        for package in self.packages(name, tasks):
            if len(package.members) > 1:
                found = self._difference(package)
                value = _of_pairs(found, position, measure) if measure in MEASURES else _own(found, position, measure)
                if value is not None:
                    table[tuple(found.labels), package.folder.seed] = np.array([value])
        return table

    def shares(self, name: str, tasks: int) -> Iterator[tuple[float, float]]:
        """Yield, of each package that shares one LoRA, the idle share of its entries and the largest of a task."""
        for package in self.packages(name, tasks):
            ledger = read_ledger(package.members)
            yield ledger.idle / ledger.size, max(ledger.shares.values())


def _is_of(run: Run, evaluation: str) -> bool:
    if evaluation:
        return any(source.stem == evaluation for source in run.sources)
    return any(source.parent.name == "scores" for source in run.sources)


def _of_pairs(found: Difference, position: str, measure: str) -> float | None:
    return mean_over_pairs(found, measure) if position == "mean" else value_of(found.survey.earlier[-1], measure)


def _own(found: Difference, position: str, measure: str) -> float | None:
    values = [getattr(adapter, measure.replace("-", "_")) for adapter in found.survey.adapters]
    if None in values:
        return None
    return {"mean": sum(values) / len(values), "first": values[0], "last": values[-1]}[position]
