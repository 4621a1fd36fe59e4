"""Runs: scores files that belong together, merged into one stage x task matrix (layer L3).

Files belong to one run if base fingerprint, package, method, combine, route and score are equal and their task orders are
prefixes of one another, as they are while a package grows. Runs share the rows of the base model, and the scores of runs that
trained each task alone.
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
from clora_cli.base.errors import OptionError, translated
from clora_cli.reporting.drafts import Draft, collect_drafts, folder_of
from clora_cli.reporting.labels import labels
from clora_cli.reporting.run_folders import NO_RUN_FOLDER
from clora_cli.reporting.scored_run import Floats, Run
from clora_cli.reporting.training_protocol import differing, protocol_of
from clora_cli.store.manifest import Manifest
from clora_cli.store.scores import Scores

__all__ = ["assemble", "plugins_of", "summarise", "summarise_stages"]

_Manifests = Mapping[tuple[str, str], Manifest]  # method and sha256 of an adapter's weights -> its manifest
_ALONE = ("task-id", "last")  # ways to combine under which the diagonal is one adapter alone


def assemble(scores_files: Sequence[Scores], manifests: _Manifests | None = None) -> list[Run]:
    """Merge scores files into runs, in the order of each run's first file.

    The rows of a file that holds base-model rows alone are added to every run of the same base model and way of scoring; it is
    a run of its own only if there is no such run. Likewise the diagonals of per-task runs become the others' ``single``.

    Args:
        scores_files: What ``read_scores`` returned.
        manifests: Adapters' manifests by method and SHA-256 of their weights, for seeds and recipes.

    Raises:
        MismatchError: If two files disagree on a score, on a task's adapter or on how a task is scored.
    """
    drafts = collect_drafts(scores_files)
    stageless = [draft for draft in drafts if not draft.learned]
    runs = []
    for draft in drafts:
        if draft.learned:
            _add_zero_shot(draft, stageless)
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
        single: The score of training on one task alone, percent, by task; default: the run's own.

    Returns:
        Percent points by metric name; NaN if a score that the metric needs is missing.
    """
    size = len(run.order)
    of_training_alone = run.single if single is None else single
    learned = run.matrix[:, :size]
    alone = np.array([of_training_alone.get(task, math.nan) for task in run.order], dtype=np.float64)
    counts, zero_shot = run.counts[:size], run.zero_shot[:size]
    given = {"single": alone, "counts": counts, "zero_shot": zero_shot}
    return {name: _value(name, learned, given) for name in registry.names("metrics")}


def summarise_stages(run: Run) -> list[dict[str, float]]:
    """Compute every metric plug-in after each stage, over the tasks learned until then.

    Returns:
        For each stage what ``summarise`` returns; nothing for tasks that were learned all at once.
    """
    stages = range(1, len(run.order) + 1) if not run.at_once else ()
    return [summarise(_until(run, stage)) for stage in stages]


def _until(run: Run, stage: int) -> Run:
    """Return a run as it was after a stage, of the tasks learned until then."""
    return replace(
        run,
        order=run.order[:stage],
        unseen=(),
        matrix=run.matrix[:stage, :stage],
        zero_shot=run.zero_shot[:stage],
        counts=run.counts[:stage],
        task_metrics=run.task_metrics[:stage],
    )


def _value(name: str, learned: Floats, given: Mapping[str, Floats]) -> float:
    """Return a metric's value; NaN where it is refused, as ``registry.refusals`` explains: the others count."""
    try:
        metric = registry.load("metrics", name)
    except OptionError:
        return math.nan
    with translated(f"metric '{name}' of {registry.find('metrics', name).origin} failed", code="metric-failed"):
        return float(metric(learned, **given))


def plugins_of(method: str, recipe: str = "") -> list[Any]:
    """Return the plug-ins that a method's name joins by ``+``; none if one of them is not here.

    Args:
        method: The name.
        recipe: A run's, for their options; ``""`` for the defaults.
    """
    options: Mapping[str, Mapping[str, Any]] = json.loads(recipe)[-1][1] if recipe else {}
    try:
        classes = {part.strip(): registry.load("methods", part.strip()) for part in method.split("+")}
        return [_bound(plugin, options.get(part, {})) for part, plugin in classes.items()]
    except OptionError:  # of another version, or of a distribution that is not here
        return []


def _bound(plugin: Any, options: Mapping[str, Any]) -> Any:
    known = registry.options(plugin)
    return plugin(**{name: value for name, value in options.items() if name in known})


def _independent(method: str) -> bool:
    """Tell whether a method trains each task's adapter by itself, so that its scores are those of training alone."""
    plugins = plugins_of(method)
    return bool(plugins) and all(
        plugin.trains and plugin.past == "none" and plugin.start == "fresh" and not plugin.reuses_data
        for plugin in plugins
    )


def _add_zero_shot(draft: Draft, base_models: Iterable[Draft]) -> None:
    for base_model in base_models:
        if base_model.matches(draft):
            for (after, task), (cell, source) in base_model.cells.items():
                draft.add(after, task, cell, source)


def _run(draft: Draft, manifests: _Manifests) -> Run:
    first = draft.first
    scored = dict.fromkeys(task for _, task in draft.cells)
    unseen = tuple(task for task in scored if task not in draft.order)
    columns = draft.order + unseen
    by_task = {task: cell for (_, task), (cell, _) in draft.cells.items()}
    folder = folder_of(first)
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
        folder=folder,
        seed=_seed(trained) if folder.seed is None else folder.seed,
        recipe=_recipe(trained),
        protocol=protocol_of(trained),
        settings=first.settings,
        answers={place: cell.answers for place, (cell, _) in draft.cells.items() if cell.answers},
        row_scores={place: cell.per_row for place, (cell, _) in draft.cells.items() if cell.per_row},
        retention={row.after: row.retention for file in draft.files for row in file.rows if row.retention},
        sources=tuple(file.source for file in draft.files if file.source is not None),
    )


def _row(draft: Draft, after: str, columns: Iterable[str]) -> Floats:
    cells = (draft.cells.get((after, task)) for task in columns)
    return np.array([cell[0].value if cell else math.nan for cell in cells], dtype=np.float64)


def _package(draft: Draft) -> str:
    """Return the package as the user named it; the folder that holds all adapters if they were named one by one."""
    longest = max(draft.files, key=lambda file: len(file.order))
    named = longest.package.split(" ")
    if len(named) < 2 or folder_of(longest) == NO_RUN_FOLDER:
        return longest.package
    try:
        return os.path.commonpath(named) or longest.package
    except ValueError:  # not a list of adapters, but one folder with a space in its name
        return longest.package


def _manifests_of(draft: Draft, manifests: _Manifests) -> list[Manifest]:
    digests = dict.fromkeys(adapter.sha256 for file in draft.files for row in file.rows for adapter in row.adapters)
    keys = [(method, digest) for digest in digests for method in draft.first.method.split(", ")]
    return [manifests[key] for key in keys if key in manifests]


def _seed(trained: Sequence[Manifest]) -> int | None:
    seeds = {manifest.seed for manifest in trained}
    return seeds.pop() if len(seeds) == 1 else None


def _recipe(trained: Sequence[Manifest]) -> str:
    """Return method and training, without seed and data; sorted by stage, so that files may come in any order."""
    kept = [[manifest.stage, manifest.method.options, manifest.training.raw, manifest.lora.raw] for manifest in trained]
    return json.dumps(sorted(kept, key=lambda entry: int(entry[0])), sort_keys=True) if kept else ""


def _with_single(draft: Draft, run: Run, alone: Sequence[tuple[Draft, Run]]) -> Run:
    """Return a run with the scores of training alone that runs of the same base and way of scoring have of its tasks."""
    matching = [(other_draft, other) for other_draft, other in alone if other_draft.matches(draft)]
    single: dict[str, float] = {}
    protocols: dict[str, Mapping[str, Any]] = {}
    for task in draft.order:
        scores = []
        for other_draft, other in matching:
            if (task, task) in other_draft.cells:
                cell, source = other_draft.cells[task, task]
                draft.check_yardstick(task, cell, source)
                scores.append((other, cell.value))
        if nearest := _nearest(run, task, scores):
            single[task] = sum(value for _, value in nearest) / len(nearest)
            protocols.update((task, other.protocol[task]) for other, _ in nearest if task in other.protocol)
    return replace(run, single=single, single_protocol=protocols)


def _nearest(run: Run, task: str, scores: Sequence[tuple[Run, float]]) -> Sequence[tuple[Run, float]]:
    """Return the scores whose protocol of a task differs least from a run's; of these, those of its seed if there are any."""
    own = run.protocol.get(task, {})
    unlike = [len(differing(own, other.protocol[task]) if task in other.protocol else own) for other, _ in scores]
    near = [score for score, differences in zip(scores, unlike, strict=True) if differences == min(unlike)]
    return [(other, value) for other, value in near if other.seed is not None and other.seed == run.seed] or near
