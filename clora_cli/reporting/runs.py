"""Runs: scores files that belong together, merged into one stage x task matrix (layer L3).

Files belong to one run if base fingerprint, package, method, combine, route and score are equal and their task orders are
prefixes of one another: a package that grew. Base-model rows and runs of independent adapters among the files are lent to the others.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from clora_cli.base import registry
from clora_cli.reporting.drafts import Draft, collect_drafts, place_of
from clora_cli.reporting.labels import labels
from clora_cli.reporting.run_folders import NOWHERE
from clora_cli.reporting.scored_run import Floats, Run
from clora_cli.reporting.training_protocol import differing, protocol_of
from clora_cli.store.scores import Scores

__all__ = ["Run", "assemble", "plugins_of", "summarise"]

_Manifests = Mapping[tuple[str, str], Mapping[str, Any]]  # method and sha256 of an adapter's weights -> its manifest
_ALONE = ("task-id", "last")  # ways to combine under which the diagonal is one adapter alone


def assemble(scores_files: Sequence[Scores], manifests: _Manifests | None = None) -> list[Run]:
    """Merge scores files into runs, in the order in which they are first met.

    A file with nothing but base-model rows lends them to every run of the same base and way of scoring, and is a run
    of its own only if there is none. Per-task runs lend their diagonals as ``single`` likewise.

    Args:
        scores_files: What ``read_scores`` returned.
        manifests: Adapters' manifests by method and SHA-256 of their weights, for seeds and recipes.

    Raises:
        MismatchError: If two files disagree on one entry, on the adapter of one task or on how a task is scored.
    """
    drafts = collect_drafts(scores_files)
    stageless = [draft for draft in drafts if not draft.learned]
    runs = []
    for draft in drafts:
        if draft.learned:
            _lend_zero_shot(draft, stageless)
            runs.append((draft, _run(draft, manifests or {})))
    if not runs:
        runs = [(draft, _run(draft, {})) for draft in stageless]
    alone = [(draft, run) for draft, run in runs if run.combine in _ALONE and _independent(run.method)]
    complete = [_with_single(draft, run, alone) for draft, run in runs]
    return [replace(run, label=label) for run, label in zip(complete, labels(complete), strict=True)]


def summarise(run: Run, single: Mapping[str, float] | None = None) -> dict[str, float]:
    """Compute every metric plug-in over a run's learned tasks.

    Args:
        run: The run.
        single: Percent by task of training on that task alone; default: what ``assemble`` found among its files.

    Returns:
        Percent points by metric name; NaN where an entry that the metric needs is missing.
    """
    size = len(run.order)
    known = run.single if single is None else single
    learned = run.matrix[:, :size]
    alone = np.array([known.get(task, math.nan) for task in run.order], dtype=np.float64)
    counts, zero_shot = run.counts[:size], run.zero_shot[:size]
    return {
        name: float(registry.load("metrics", name)(learned, single=alone, counts=counts, zero_shot=zero_shot))
        for name in registry.names("metrics")
    }


def plugins_of(method: str) -> list[Any]:
    """Return the plug-ins that a method's name joins by ``+``; none if it is not only of this version's methods."""
    parts = [part.strip() for part in method.split("+")]
    known = set(parts) <= set(registry.names("methods"))
    return [registry.load("methods", part) for part in parts] if known else []


def _independent(method: str) -> bool:
    """Tell whether a method trains each task's adapter by itself, so that its scores are those of training alone."""
    found = plugins_of(method)
    return bool(found) and all(
        one.trains and one.past == "none" and one.start == "fresh" and not one.reuses_data for one in found
    )


def _lend_zero_shot(draft: Draft, lenders: Iterable[Draft]) -> None:
    for lender in lenders:
        if lender.matches(draft):
            for (after, task), (cell, source) in lender.cells.items():
                draft.add(after, task, cell, source)


def _run(draft: Draft, manifests: _Manifests) -> Run:
    first = draft.first
    scored = dict.fromkeys(task for _, task in draft.cells)
    unseen = tuple(task for task in scored if task not in draft.order)
    columns = draft.order + unseen
    by_task = {task: cell for (_, task), (cell, _) in draft.cells.items()}
    where, last = place_of(first), draft.order[-1] if draft.order else ""
    trained = _manifests_of(draft, manifests)
    return Run(
        label="",
        base=first.base,
        package=_package(draft),
        method=first.method,
        combine=first.combine,
        score=first.score,
        order=draft.order,
        unseen=unseen,
        matrix=np.array([_row(draft, after, columns) for after in draft.order]).reshape(len(draft.order), len(columns)),
        zero_shot=_row(draft, "", columns),
        counts=np.array([by_task[task].total if task in by_task else math.nan for task in columns], dtype=np.float64),
        task_metrics=tuple(by_task[task].metric if task in by_task else "" for task in columns),
        single={},
        place=where,
        seed=_seed(trained) if where.seed is None else where.seed,
        recipe=_recipe(trained),
        protocol=protocol_of(trained),
        settings=first.settings,
        final_rows={
            task: cell.per_row for (after, task), (cell, _) in draft.cells.items() if after == last and cell.per_row
        },
        sources=tuple(file.source for file in draft.files if file.source is not None),
    )


def _row(draft: Draft, after: str, columns: Iterable[str]) -> Floats:
    cells = (draft.cells.get((after, task)) for task in columns)
    return np.array([cell[0].value if cell else math.nan for cell in cells], dtype=np.float64)


def _package(draft: Draft) -> str:
    """Return the package as the user named it; the folder that adapters share where they were named one by one."""
    longest = max(draft.files, key=lambda file: len(file.order))
    named = longest.package.split(" ")
    if len(named) < 2 or place_of(longest) == NOWHERE:
        return longest.package
    try:
        return os.path.commonpath(named) or longest.package
    except ValueError:  # no list of adapters after all, but one folder with a space in its name
        return longest.package


def _manifests_of(draft: Draft, manifests: _Manifests) -> list[Mapping[str, Any]]:
    digests = dict.fromkeys(adapter.sha256 for file in draft.files for row in file.rows for adapter in row.adapters)
    keys = [(method, digest) for digest in digests for method in draft.first.method.split(", ")]
    return [manifests[key] for key in keys if key in manifests]


def _seed(trained: Sequence[Mapping[str, Any]]) -> int | None:
    seeds = {manifest["seed"] for manifest in trained}
    return seeds.pop() if len(seeds) == 1 else None


def _recipe(trained: Sequence[Mapping[str, Any]]) -> str:
    """Return what was chosen for training, seed and data apart; sorted by stage, so that files may come in any order."""
    kept = [
        [manifest["stage"], manifest["method"].get("options", {}), manifest["training"], manifest["lora"]]
        for manifest in trained
    ]
    return json.dumps(sorted(kept, key=lambda entry: int(entry[0])), sort_keys=True) if kept else ""


def _with_single(draft: Draft, run: Run, alone: Sequence[tuple[Draft, Run]]) -> Run:
    """Return a run with what per-task runs of the same base and way of scoring say of each of its tasks."""
    fitting = [(other, one) for other, one in alone if other.matches(draft)]
    single: dict[str, float] = {}
    protocols: dict[str, Mapping[str, Any]] = {}
    for task in draft.order:
        found = [(one, *other.cells[task, task]) for other, one in fitting if (task, task) in other.cells]
        for _, cell, source in found:
            draft.check_yardstick(task, cell, source)
        if chosen := _nearest(run, task, [(one, cell.value) for one, cell, _ in found]):
            single[task] = sum(value for _, value in chosen) / len(chosen)
            protocols.update((task, one.protocol[task]) for one, _ in chosen if task in one.protocol)
    return replace(run, single=single, single_protocol=protocols)


def _nearest(run: Run, task: str, found: Sequence[tuple[Run, float]]) -> Sequence[tuple[Run, float]]:
    """Return those that differ least from a run's protocol of a task, and of these the ones of its seed if there are any."""
    own = run.protocol.get(task, {})
    unlike = [len(differing(own, one.protocol[task]) if task in one.protocol else own) for one, _ in found]
    near = [entry for entry, count in zip(found, unlike, strict=True) if count == min(unlike)]
    return [(one, value) for one, value in near if one.seed is not None and one.seed == run.seed] or near
