"""What aso-lora's attribution costs against the training of the same run, and the relations that it finds.

The bundled model learns a few bundled tasks, one after the other, and then one more with aso-lora, as
``clora train-task`` does it. The time of all attributions of that last run is set against the rest of its time, in one
process, so that a busy machine slows both alike. The aim is a tenth at most with the defaults.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging

from clora_cli.base.progress import Silent
from clora_cli.base.registry import split_options
from clora_cli.data import list_tasks
from clora_cli.options import TrainOptions
from clora_cli.training import make_plan, train_task

_NOTE = re.compile(r"attribution took ([\d.]+) s, ([\d.]+)% of the training's own time")


class Notes(Silent):
    """Keeps what a run says of itself."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.warnings: list[str] = []

    def note(self, text: str) -> None:
        """Keep a note."""
        self.notes.append(text)

    def warn(self, text: str) -> None:
        """Keep a warning."""
        self.warnings.append(text)


def learn(folder: Path, task: str, method: str, options: argparse.Namespace) -> tuple[dict[str, Any], Notes, float]:
    """Train one task into a package; return its manifest, what was said, and seconds in all."""
    own = split_options(options.o) if method == "aso-lora" else {}
    chosen: dict[str, Any] = {"epochs": options.epochs, "device": options.device, "dtype": options.dtype}
    plan = make_plan(TrainOptions(data=task, method=method, method_options=own, package=folder, **chosen))
    notes, began = Notes(), time.monotonic()
    adapter, _ = train_task(plan, progress=notes)
    return dict(adapter.manifest.raw), notes, time.monotonic() - began


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--past", type=int, default=3, help="earlier adapters (default %(default)s)")
    parser.add_argument("--epochs", type=float, default=4, help="epochs of every task (default %(default)s)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--threads", type=int, default=0, help="threads of a CPU; 0 for PyTorch's choice")
    parser.add_argument("-o", action="append", default=[], metavar="KEY=VALUE", help="an option of aso-lora")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of text")
    options = parser.parse_args()
    logging.disable_progress_bar()
    if options.threads:
        torch.set_num_threads(options.threads)
    tasks = [info.name for info in list_tasks() if info.where == "bundled"][: options.past + 1]
    if len(tasks) <= options.past:
        sys.exit(f"--past {options.past}: there are {len(tasks)} bundled tasks")
    with tempfile.TemporaryDirectory() as folder:
        for task in tasks[:-1]:
            learn(Path(folder), task, "inc-lora", options)
        manifest, notes, seconds = learn(Path(folder), tasks[-1], "aso-lora", options)
    found = _NOTE.search(" ".join(notes.notes))
    if found is None:
        sys.exit("the run says nothing of its attribution")
    result = {
        "task": tasks[-1],
        "seconds": round(seconds, 1),
        "attribution_seconds": float(found[1]),
        "percent_of_training": float(found[2]),
        "options": manifest["method"]["options"]["aso-lora"],
        "relations": manifest["scores"]["relations"]["aso-lora"],
        "warnings": notes.warnings,
    }
    print(json.dumps(result) if options.json else "\n".join(f"{key:22}{value}" for key, value in result.items()))


if __name__ == "__main__":
    main()
