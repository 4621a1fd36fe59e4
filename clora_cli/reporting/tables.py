"""Tables in GitHub Markdown and the report as JSON (layer L3)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from clora_cli import registry
from clora_cli.reporting._markdown import plain, table
from clora_cli.reporting.runs import Floats, Run, summarise

__all__ = ["REPORT_SCHEMA", "matrix_table", "report_json", "summary_table"]

REPORT_SCHEMA = "clora.report/1"
_MISSING = "-"


def matrix_table(run: Run) -> str:
    """Return a run's stage x task matrix, percent, as a Markdown table.

    Rows are stages, with the base model alone as stage 0 and training alone as the last row where they are known. The
    diagonal is bold: the score right after learning. The last column is the mean over the tasks learned so far.
    """
    rows = []
    if _known(run.zero_shot):
        rows.append(["0 (base model)", *map(_percent, run.zero_shot), ""])
    for stage, (task, scores, seen) in enumerate(zip(run.order, run.matrix, run.trajectory, strict=True)):
        cells = [_percent(value) for value in scores]
        if not math.isnan(scores[stage]):
            cells[stage] = f"**{cells[stage]}**"
        rows.append([f"{stage + 1} {plain(task)}", *cells, _percent(seen)])
    if run.single:
        rows.append(["alone", *(_percent(run.single.get(task, math.nan)) for task in run.columns), ""])
    metrics = set(run.task_metrics) - {""}
    if len(metrics) > 1:
        rows.append(["metric", *(plain(metric) or _MISSING for metric in run.task_metrics), ""])
    rows.append(["test rows", *(_MISSING if math.isnan(count) else f"{count:.0f}" for count in run.counts), ""])
    unseen = {task: f"{plain(task)} (unseen)" for task in run.unseen}
    corner = f"after stage ({plain(metrics.pop())}, %)" if len(metrics) == 1 else "after stage (%)"
    return table([corner, *(unseen.get(task, plain(task)) for task in run.columns), "mean so far"], rows)


def summary_table(runs: Sequence[Run], single: Mapping[str, float] | None = None) -> str:
    """Return every metric of every run as a Markdown table, one column a run, with the metrics' equations below it.

    A metric that no run has the entries for is named under the table instead of filling a row with dashes.
    """
    summaries = [summarise(run, single) for run in runs]
    names = registry.names("metrics")
    shown = [name for name in names if any(not math.isnan(summary[name]) for summary in summaries)]
    rows = [[name, *(_percent(summary[name], 2) for summary in summaries)] for name in shown]
    rows.append(["tasks", *(str(len(run.order)) for run in runs)])
    lines = [table(["metric", *(plain(run.label) for run in runs)], rows)]
    lines += [f"- `{name}`: {registry.summary('metrics', name)}\n" for name in shown]
    hidden = [f"`{name}`" for name in names if name not in shown]
    if hidden:
        lines.append(f"- Not shown, since scores that they need are missing: {', '.join(hidden)}.\n")
    return lines[0] + "\n" + "".join(lines[1:])


def report_json(runs: Sequence[Run], single: Mapping[str, float] | None = None) -> dict[str, Any]:
    """Return the whole report as a JSON object; NaN becomes null.

    ``metrics`` explains each metric by its equation; ``runs[i].metrics`` holds its values by the same name.
    """
    explained = {name: registry.summary("metrics", name) for name in registry.names("metrics")}
    return {"schema": REPORT_SCHEMA, "metrics": explained, "runs": [_run(run, single) for run in runs]}


def _run(run: Run, single: Mapping[str, float] | None) -> dict[str, Any]:
    known = run.single if single is None else single
    return {
        "label": run.label,
        "base": {"id": run.base.id, "fingerprint": run.base.fingerprint},
        "package": run.package,
        "method": run.method,
        "combine": run.combine,
        "score": run.score,
        "order": list(run.order),
        "unseen": list(run.unseen),
        "matrix": [_nulls(row) for row in run.matrix],
        "mean_so_far": _nulls(run.trajectory),
        "zero_shot": _nulls(run.zero_shot),
        "single": _nulls(known.get(task, math.nan) for task in run.columns),
        "task_metrics": list(run.task_metrics),
        "test_rows": [None if math.isnan(count) else int(count) for count in run.counts],
        "metrics": {name: _null(value) for name, value in summarise(run, single).items()},
    }


def _null(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def _nulls(values: Iterable[float]) -> list[float | None]:
    return [_null(value) for value in values]


def _known(values: Floats) -> bool:
    return not all(math.isnan(value) for value in values)


def _percent(value: float, digits: int = 1) -> str:
    return _MISSING if math.isnan(value) else f"{round(value, digits) + 0.0:.{digits}f}"  # + 0.0: never "-0.0"
