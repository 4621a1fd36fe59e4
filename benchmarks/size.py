"""What commands cost on packages of many members: CPU time and peak memory of whole processes, and how they grow.

One adapter is trained for a step on the bundled model; copies of it with other numbers, names and stages make packages
of ``--members`` sizes, each with a feature distribution. Every command runs once on each package. ``growth`` is the time of
the largest package over that of the one before it, without what a package of one member takes, over the ratio of their
members: 1 is linear.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from clora_cli.algebra.statistics import Moments
from clora_cli.store.adapter_folder import AdapterFolder, read_adapter
from clora_cli.store.adapter_writing import write_adapter
from clora_cli.store.distribution import Distribution, read_distribution
from clora_cli.store.feature_record import FeatureRecord
from clora_cli.store.tensors import read_tensors

TASK = "sentiment-binary"
COMMANDS = {
    "show": ["show", "{package}"],
    "expand": ["expand", "{package}", "-o", "{out}/expanded", "--force"],
    "merge": ["merge", "{package}", "-o", "{out}/merged", "--force", "--rank", "8"],
    "route": ["route", "{package}", "--data", TASK, "--limit", "16"],
    "eval": ["eval", "{package}", "--data", TASK, "--test-rows", "16", "--combine", "route"],
    "report": ["report", "{package}", "-o", "{out}/report.html"],
}


def clora(*arguments: str, environment: dict[str, str] | None = None) -> tuple[float, float]:
    """Run a command; return its CPU seconds and its peak memory in MB."""
    command = [sys.executable, "-m", "clora_cli", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(arguments)}: {process.stderr.read().decode() if process.stderr else status}")
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def first_member(folder: Path) -> AdapterFolder:
    """Train the adapter that all others are copies of."""
    clora("train-task", "--data", TASK, "--method", "per-task", "--max-steps", "1", "-p", str(folder))
    clora("stat-features", str(folder / TASK), "--data", TASK, "--limit", "64")
    return read_adapter(folder / TASK)


def build(package: Path, first: AdapterFolder, members: int) -> None:
    """Write copies of an adapter with other numbers."""
    tensors, features = read_tensors(first.weights), read_distribution(first.features)
    for stage in range(1, members + 1):
        generator = torch.Generator().manual_seed(stage)
        task = f"task-{stage:04}"
        manifest = _manifest(first, task, stage)
        noisy = {key: 0.02 * torch.randn(value.shape, generator=generator) for key, value in tensors.items()}
        write_adapter(
            package / task,
            noisy,
            first.config,
            manifest,
            {"README.md": f"{task}\n"},
            None,
            _shifted(features, generator),
        )


def _manifest(first: AdapterFolder, task: str, stage: int) -> dict[str, Any]:
    kept = {key: value for key, value in first.manifest.raw.items() if key not in ("schema", "files")}
    return {**kept, "task": task, "stage": stage}


def _shifted(features: Distribution, generator: torch.Generator) -> Distribution:
    sites = {
        site: Moments(one.count, one.mean + torch.randn(one.mean.shape, generator=generator), one.scatter)
        for site, one in features.sites.items()
    }
    return Distribution(
        sites,
        FeatureRecord({key: value for key, value in features.record.raw.items() if key not in ("schema", "sha256")}),
    )


def measured(work: Path, sizes: list[int], commands: list[str]) -> Iterator[dict[str, Any]]:
    """Yield, for each command, its seconds and MB at each size."""
    first = first_member(work / "first")
    for size in sizes:
        build(work / f"package-{size}", first, size)
    for name in commands:
        found = []
        for size in sizes:
            places = {"package": str(work / f"package-{size}"), "out": str(work)}
            found.append(clora(*(word.format_map(places) for word in COMMANDS[name])))
        yield {"command": name, "seconds": [round(s, 1) for s, _ in found], "megabytes": [round(m) for _, m in found]}


def growth(sizes: list[int], seconds: list[float]) -> float:
    """Return how much faster than the members the time grows: 1 is linear."""
    start, before, last = seconds[0], seconds[-2], seconds[-1]
    return (last - start) / max(before - start, 1e-9) * sizes[-2] / sizes[-1]


def main() -> None:
    """Print one line a command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commands", nargs="*", default=list(COMMANDS), metavar="COMMAND")
    parser.add_argument("--members", type=int, nargs="+", default=[1, 250, 500, 1000])
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    sizes = sorted(arguments.members)
    with tempfile.TemporaryDirectory() as folder:
        for row in measured(Path(folder), sizes, arguments.commands):
            row["growth"] = round(growth(sizes, row["seconds"]), 2) if len(sizes) > 2 else None
            if arguments.json:
                print(json.dumps(row), flush=True)
                continue
            cells = [f"{n}: {s} s, {m} MB" for n, s, m in zip(sizes, row["seconds"], row["megabytes"], strict=True)]
            print(f"{row['command']:<8} {'; '.join(cells)}; growth {row['growth']}", flush=True)


if __name__ == "__main__":
    main()
