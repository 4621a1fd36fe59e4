"""How far apart trainings of the bundled tasks end: over seeds, over numbers of threads, and from machine to machine.

Two measurements, each for every seed and number of threads. Alone: every task is trained by itself, and scored on its test rows.
Demo: the matrices of examples/demo.sh, with its tasks, methods and settings. Of each task and each cell of a matrix it prints the
lowest and the highest score, and how far apart they are, in bold above 5 points. Trained adapters and scores are kept in --out, so
that a second call only adds to them; on another machine it begins anew. All of it takes about 40 minutes of one core.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging

from clora_cli.data import load_task
from clora_cli.evaluation import evaluate
from clora_cli.nano.task_set import ORDER
from clora_cli.options import EvalOptions, TrainOptions
from clora_cli.store.package import read_package
from clora_cli.training import make_plan, train_task

DEMO = Path(__file__).parents[1] / "examples" / "demo.sh"
FAR = 5.0  # points that two trainings may be apart

Cells = dict[str, list[float]]


def of_demo(name: str) -> list[str]:
    """Return what an array of the demo's script holds: ``tasks``, ``methods`` or ``settings``."""
    found = re.search(rf"^{name}=\((.*)\)$", DEMO.read_text(encoding="utf-8"), re.MULTILINE)
    return found[1].split() if found else []


def given(words: list[str]) -> dict[str, Any]:
    """Return ``--epochs 3 --lr 0.01`` as options of a training."""
    pairs = zip(words[::2], words[1::2], strict=True)
    return {flag.lstrip("-").replace("-", "_"): json.loads(text) if text[0].isdigit() else text for flag, text in pairs}


def train(task: str, package: Path, seed: int, method: str, settings: dict[str, Any]) -> None:
    """Train a task on top of a package, unless it is there already."""
    train_task(
        make_plan(TrainOptions(data=task, method=method, package=package, seed=seed, device="cpu", **settings)),
        resume=True,
    )


def kept(path: Path, compute: Any) -> Any:
    """Return what a file holds; compute and write it first where it is missing."""
    if not path.exists():
        result = compute()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(result), encoding="utf-8")
    return json.loads(path.read_text(encoding="utf-8"))


def alone(task: str, folder: Path, seed: int, settings: dict[str, Any]) -> float:
    """Return the score of a task that is trained by itself."""
    train(task, folder / task, seed, "per-task", settings)
    scores = evaluate(read_package([folder / task]), [load_task(task)], EvalOptions(device="cpu"))
    return float(scores.rows[-1].scores[task].value)


def matrix(method: str, folder: Path, seed: int, settings: dict[str, Any]) -> list[list[float]]:
    """Return the demo's matrix of one method, the base model's row first."""
    names = of_demo("tasks")
    for task in names:
        train(task, folder / method, seed, method, settings)
    tasks = [load_task(name) for name in names]
    scores = evaluate(read_package([folder / method]), tasks, EvalOptions(device="cpu", matrix=True))
    return [[float(row.scores[name].value) for name in names] for row in scores.rows]


def measured(options: argparse.Namespace) -> Iterator[tuple[str, float]]:
    """Yield each score with the name of its cell, run by run."""
    for threads in options.threads:
        torch.set_num_threads(threads)
        for seed in options.seeds:
            folder = options.out / f"seed-{seed}-threads-{threads}"
            for task in options.tasks:
                path = folder / f"{task}.json"
                started, fresh = time.perf_counter(), not path.exists()
                score = kept(
                    path, lambda task=task, folder=folder, seed=seed: alone(task, folder, seed, options.settings)
                )
                note = f"  {time.perf_counter() - started:.0f} s" if fresh else ""
                print(f"seed {seed}, {threads} threads: {task} {score:.1f}{note}", flush=True)
                yield task, score
            for method in of_demo("methods") if options.demo else ():
                place = folder / "-".join(of_demo("tasks"))  # another demo is another measurement
                path = place / f"demo-{method}.json"
                rows = kept(path, lambda m=method, f=place, s=seed: matrix(m, f, s, given(of_demo("settings"))))
                print(f"seed {seed}, {threads} threads: {method} {rows}", flush=True)
                for stage, row in enumerate(rows):
                    for task, score in zip(of_demo("tasks"), row, strict=True):
                        yield f"{method}, after {stage}, {task}", score


def main() -> None:
    """Train, score and print the spread."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("settings", nargs="*", metavar="FLAG=VALUE", help="options of clora train-task: lr=0.003")
    parser.add_argument("--tasks", nargs="*", default=ORDER, help="bundled tasks to train alone; all by default")
    parser.add_argument("--seeds", type=int, nargs="+", default=[42, 1, 2, 3, 4])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--demo", action="store_true", help="the matrices of examples/demo.sh too")
    parser.add_argument("--out", type=Path, default=Path("demo-stability"), help="folder of the adapters and scores")
    options = parser.parse_args()
    options.settings = given([word for pair in options.settings for word in pair.split("=", 1)])
    logging.disable_progress_bar()
    cells: Cells = {}
    for name, score in measured(options):
        cells.setdefault(name, []).append(score)
    print("\n| | runs | lowest | highest | apart |\n|---|---:|---:|---:|---:|")
    for name, scores in cells.items():
        apart = max(scores) - min(scores)
        told = f"**{apart:.1f}**" if apart > FAR else f"{apart:.1f}"
        print(f"| {name} | {len(scores)} | {min(scores):.1f} | {max(scores):.1f} | {told} |")


if __name__ == "__main__":
    main()
