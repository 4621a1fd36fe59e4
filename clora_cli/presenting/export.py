"""A report for programs: one JSON object, and every score as CSV in long form."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any

from clora_cli.base import registry
from clora_cli.base.legible import legible
from clora_cli.presenting.group_forms import group_data
from clora_cli.presenting.sweep_forms import sweep_data
from clora_cli.reporting.assembly import Report
from clora_cli.reporting.bootstrap import RESAMPLES, Significance
from clora_cli.reporting.cost_rows import CostRow
from clora_cli.reporting.method_results import Group, Order, Results, Series, Spread
from clora_cli.reporting.runs import summarise, summarise_stages
from clora_cli.reporting.scored_run import Run
from clora_cli.reporting.standings import COLUMNS

__all__ = ["CSV_HEADER", "REPORT_SCHEMA", "report_csv", "report_json"]

REPORT_SCHEMA = "clora.report/1"
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
CSV_HEADER = ("method", "order", "seed", "stage", "after", "task", "metric", "test_rows", "value")


def report_csv(results: Results) -> str:
    """Return every score of every run, one a line: percent, by method, order, seed, stage and task.

    Stage 0 is the base model; ``seed`` is empty if it is not known. Scores that were not evaluated are left out. Lines without a
    task hold the metrics of all tasks learned until then, percent points.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CSV_HEADER)
    for series in results.series:
        for run in series.runs:
            writer.writerows(_lines(series, run))
    return text.getvalue()


def report_json(report: Report) -> dict[str, Any]:
    """Return the whole report as a JSON object; NaN becomes null.

    ``metrics`` holds each metric's equation; ``runs[i].metrics`` its values by the same name, and ``methods[i].orders`` their
    means and standard deviations over runs.
    """
    results = report.results
    return {
        "schema": REPORT_SCHEMA,
        "metrics": {name: registry.summary("metrics", name) for name in registry.names("metrics")},
        "runs": [_run(run) for run in results.runs],
        "orders": {order.label: list(order.tasks) for order in results.orders},
        "methods": [_method(group, results.orders) for group in (*results.zero_shot, *results.groups)],
        "sweeps": list(map(sweep_data, report.sweeps)),
        "task_groups": list(map(group_data, report.task_groups)),
        "row_changes": [asdict(row) for row in report.row_changes],
        "general_ability": [asdict(row) for row in report.general_abilities],
        "footing": list(report.footing),
        "significance": [_significance(pair) for pair in report.pairs],
        "costs": [_cost(row) for row in report.costs],
    }


def _lines(series: Series, run: Run) -> Iterable[Sequence[object]]:
    stages = [(0, "", run.zero_shot), *zip(range(1, len(run.order) + 1), run.order, run.matrix, strict=True)]
    seed = "" if run.seed is None else run.seed
    for stage, after, scores in stages:
        for task, metric, count, value in zip(run.columns, run.task_metrics, run.counts, scores, strict=True):
            if not math.isnan(value):
                texts = map(_cell, (series.label, series.order.label, str(seed), str(stage), after, task, metric))
                yield *texts, int(count), float(value)
    for stage, (after, metrics) in enumerate(zip(run.order, summarise_stages(run), strict=False), start=1):
        for metric, value in metrics.items():
            if not math.isnan(value):
                yield (
                    *map(_cell, (series.label, series.order.label, str(seed), str(stage), after, "", metric)),
                    "",
                    value,
                )


def _cell(text: str) -> str:
    """Return a text that a spreadsheet does not take for a formula."""
    return f"'{legible(text)}" if text.startswith(_FORMULA) else legible(text)


def _run(run: Run) -> dict[str, Any]:
    return {
        "label": run.label,
        "base": {"id": run.base.id, "fingerprint": run.base.fingerprint},
        "package": run.package,
        "method": run.method,
        "combine": run.combine,
        "score": run.score,
        "seed": run.seed,
        "order": list(run.order),
        "unseen": list(run.unseen),
        "matrix": [_nulls(row) for row in run.matrix],
        "mean_so_far": _nulls(run.trajectory),
        "zero_shot": _nulls(run.zero_shot),
        "single": _nulls(run.single.get(task, math.nan) for task in run.columns),
        "task_metrics": list(run.task_metrics),
        "test_rows": [None if math.isnan(count) else int(count) for count in run.counts],
        "metrics": {name: _null(value) for name, value in summarise(run).items()},
        "metrics_by_stage": _columns(summarise_stages(run)),
        "settings": dict(run.settings),
    }


def _columns(stages: Sequence[Mapping[str, float]]) -> dict[str, list[float | None]]:
    """Return each metric's values, stage by stage."""
    return {name: _nulls(stage[name] for stage in stages) for name in (stages[0] if stages else ())}


def _method(group: Group, orders: Sequence[Order]) -> dict[str, Any]:
    average = {column.metric: group.average(orders, column.metric) for column in COLUMNS}
    return {
        "label": group.label,
        **asdict(group.traits),
        "orders": {order.label: _series(series) for order, series in group.series.items()},
        "average": _spreads(average),
    }


def _series(series: Series) -> dict[str, Any]:
    seeds = [run.seed for run in series.runs]
    stages = [_spreads(stage) for stage in series.stages]
    return {"runs": len(seeds), "seeds": seeds, "metrics": _spreads(series.metrics), "metrics_by_stage": stages}


def _significance(pair: Significance) -> dict[str, Any]:
    return {
        **asdict(pair.estimate),
        "first": pair.first,
        "second": pair.second,
        "orders": list(pair.orders),
        "tasks": pair.tasks,
        "rows": pair.rows,
        "runs": list(pair.runs),
        "resamples": RESAMPLES,
    }


def _cost(row: CostRow) -> dict[str, Any]:
    values = {field.name: getattr(row, field.name) for field in fields(row)}
    return {name: _spread(value) if isinstance(value, Spread) else value for name, value in values.items()}


def _spreads(spreads: Mapping[str, Spread]) -> dict[str, Any]:
    return {name: _spread(spread) for name, spread in spreads.items()}


def _spread(spread: Spread) -> dict[str, float | None]:
    return {"mean": _null(spread.mean), "deviation": _null(spread.deviation)}


def _null(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def _nulls(values: Iterable[float]) -> list[float | None]:
    return [_null(value) for value in values]
