"""Scores, routes, costs and run folders for the tests of reports, made on the spot."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from support import write_random_adapter

from clora_cli.model.backbone import Backbone
from clora_cli.reporting import assemble
from clora_cli.reporting.collect import collect
from clora_cli.reporting.grouping import bring_together
from clora_cli.reporting.method_results import Results
from clora_cli.store.routes import Routes
from clora_cli.store.scores import AdapterRef, BaseRef, ScoreRow, Scores, TaskScore, write_scores

ORDER = ("first", "second")
BASE = BaseRef("nano", "f0")


def cell(rows: Sequence[float]) -> TaskScore:
    """Return the score of a task whose rows scored so."""
    value = 100 * sum(rows) / len(rows)
    return TaskScore("exact-match", "equal", value, len(rows), correct=round(sum(rows)), per_row=tuple(rows))


def bits(right: int, total: int = 10) -> list[float]:
    """Return the scores of rows of which the first so many are right."""
    return [1.0] * right + [0.0] * (total - right)


def stage_scores(
    stage: int, rights: Mapping[str, int], package: str, method: str, order=ORDER, combine="sum"
) -> Scores:
    """Return the scores after a stage: how many rows of ten were right, by task."""
    cells = {task: cell(bits(right)) for task, right in rights.items()}
    adapters = tuple(AdapterRef(task, package.partition("/adapters/")[0] + task) for task in order[:stage])
    row = ScoreRow(stage, order[stage - 1] if stage else "", adapters, cells)
    return Scores(BASE, package, method, combine, "generate", tuple(order[:stage]), (row,))


def write_run(root: Path, method: str, seed: int, matrix: Sequence[Sequence[int]], order=ORDER, combine="sum") -> Path:
    """Write a run folder as ``clora run`` lays it out: a scores file a stage and its costs; right rows of ten as given."""
    folder = root / method / f"seed-{seed}"
    for stage, rights in enumerate(matrix, start=1):
        names = " ".join(str(folder / "adapters" / task) for task in order[:stage])
        scores = stage_scores(
            stage, dict(zip(order, rights, strict=False)), names, method.partition("@")[0], order, combine
        )
        write_scores(scores, folder / "scores" / f"{stage}-{order[stage - 1]}.json")
    with (root / "cost.jsonl").open("a", encoding="utf-8") as file:
        for stage, task in enumerate(order[: len(matrix)], start=1):
            file.write(json.dumps(cost(method, seed, task, stage, "train", 10.0 * stage + seed)) + "\n")
            file.write(json.dumps(cost(method, seed, task, stage, "eval", 1.0)) + "\n")
    return folder


def cost(method: str, seed: int, task: str, stage: int, step: str, seconds: float) -> dict[str, object]:
    """Return a line of a cost file."""
    return {
        "schema": "clora.cost/1",
        "method": method,
        "seed": seed,
        "task": task,
        "stage": stage,
        "step": step,
        "seconds": seconds,
        "peak_memory_bytes": 2_000_000_000 + stage,
        "trainable_parameters": 1_000_000 if step == "train" else None,
        "adapter_bytes": 4_000_000 if step == "train" else None,
    }


def write_routes(path: Path) -> Path:
    """Write where inputs of two tasks went."""
    content = {
        "schema": "clora.routes/1",
        "adapters": list(ORDER),
        "tasks": list(ORDER),
        "inputs": [10, 10],
        "counts": [[9, 1], [2, 8]],
        "abstained": [0, 0],
        "known_by": [["first"], ["second"]],
        "accuracy": [90.0, 80.0],
        "macro": 85.0,
        "micro": 85.0,
        "weights": [[0.9, 0.1], [0.25, 0.75]],
        "settings": {"similarity": "l2", "top_k": 0, "temperature": 1.0, "sites": ["a"]},
    }
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def write_runs(root: Path) -> Path:
    """Write two methods, training alone, two orders and up to three seeds; AP of n-lora over seeds: 60, 70, 80."""
    for seed, last in enumerate(([5, 7], [6, 8], [7, 9]), start=1):
        write_run(root / "order1", "n-lora", seed, [[8], last])
        write_run(root / "order1", "seq-lora", seed, [[9], [1, 9]])
        write_run(root / "order1", "per-task", seed, [[8], [8, 6 + seed]], combine="task-id")
    write_run(root / "order2", "n-lora", 1, [[7], [4, 6]], order=ORDER[::-1])
    write_run(root / "order2", "seq-lora", 1, [[7], [2, 8]], order=ORDER[::-1])
    return root


ROUTE_SETTINGS = {"similarity": "l2", "top_k": 0, "temperature": 1.0, "sites": ["a", "b"]}


ROUTES = Routes(
    adapters=("mnli", "sentiment", "topics"),
    tasks=("mnli", "sst2", "unseen"),
    knows=((0,), (1,), ()),
    counts=((9, 1, 0), (10, 30, 0), (0, 0, 3)),
    abstained=(0, 10, 0),
    weights=((0.8, 0.15, 0.05), (0.2, 0.5, 0.1), (0.1, 0.1, 0.8)),
    panels={f"layer {layer} {kind}_proj": ((0.5 + layer / 3, 0.15, 0.05),) * 3 for kind in "qv" for layer in range(2)},
    settings=ROUTE_SETTINGS,
)


def many_routes(tasks, adapters, *, unseen=0, panels=(), abstained=0):
    """Return routes of many tasks: of the i-th, i % 10 of 10 inputs go to the first adapter but one, the others home."""
    home = [[0] * adapters for _ in range(tasks + unseen)]
    for task, row in enumerate(home):
        row[task % adapters] += 10 - task % 10
        row[(task + 1) % adapters] += task % 10
    names = tuple(
        f"task{1000 + number}_a_rather_long_name_of_a_task" for number in range(max(tasks + unseen, adapters))
    )
    weights = tuple(tuple(count / 10 for count in row) for row in home)
    return Routes(
        names[:adapters],
        names[: tasks + unseen],
        tuple((task,) if task < tasks else () for task in range(tasks + unseen)),
        tuple(map(tuple, home)),
        (abstained,) * (tasks + unseen),
        weights,
        dict.fromkeys(panels, weights),
        ROUTE_SETTINGS,
    )


def write_packages(root: Path, base) -> Path:
    """Write the packages of run folders: two seeds of one method, one of another; three adapters each."""
    for name, seed in (("n-lora", 2), ("n-lora", 1), ("seq-lora", 1)):
        for stage, task in enumerate((*ORDER, "third"), start=1):
            write_random_adapter(root / name / f"seed-{seed}" / "adapters" / task, base, stage=stage)
    return root


def bring(*paths: Path) -> Results:
    """Return the results of what lies at some paths."""
    material = collect(paths)
    return bring_together(assemble(material.scores, material.manifests))


def write_three(folder: Path, base: Backbone) -> Path:
    """Write adapters of the tasks first, second and third, with random numbers; their names do not sort by stage."""
    for stage, task in enumerate(("first", "second", "third"), start=1):
        write_random_adapter(folder / f"{4 - stage}-{task}", base, stage=stage, manifest={"task": task})
    return folder
