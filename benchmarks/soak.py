"""Many short trainings in one process, task after task into one package: what each costs, and whether anything piles up.

Prints the CPU seconds of a training (means over the first and the last ``--window`` tasks, the very first left out), and the
memory that the process holds after them. Data are made up; the model is the bundled one. With ``--copied`` the adapters
between the first and the last ones are copies of one, which is done in a minute; of ``cast``, whose adapters share one LoRA, each
has as many entries of its own, drawn from those that are idle.
With ``--commands`` the first and the last ones are commands of their own, as a user calls them: CPU seconds and the most memory of
each, the start of the program included.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import mean

import torch
from transformers.utils import logging

from clora_cli.base.files import sha256
from clora_cli.options import TrainOptions
from clora_cli.store.ledger import Ledger, mask_key, pack, read_ledger
from clora_cli.store.package import read_package
from clora_cli.store.tensors import read_tensors, save_tensors
from clora_cli.training import make_plan, train_task

OPTIONS = {"cast": {"most": "0.004", "least": "0.0001"}}  # two hundred tasks have to fit into one LoRA


def write_tasks(folder: Path, count: int) -> list[Path]:
    """Write small labelled tasks, each of its own words."""
    paths = []
    for number in range(count):
        rows = [
            {"text": f"case {number} of row {row} is {'fine' if row % 2 else 'bad'}", "label": ("no", "yes")[row % 2]}
            for row in range(24)
        ]
        path = folder / f"soak{number:03}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        paths.append(path)
    return paths


def copy_adapter(package: Path, source: Path, name: str) -> None:
    """Put a copy of an adapter into a package, as one that was trained on top of all that are there."""
    stage = len(list(package.iterdir()))
    manifest = json.loads((source / "clora.json").read_text(encoding="utf-8"))
    ledger = read_ledger(read_package([package])) if manifest["method"]["start"] == "shared" else None
    shutil.copytree(source, package / name)
    if parents := manifest["parents"]:
        manifest["parents"] = [
            parents[n] if n < len(parents) else {**parents[-1], "task": f"t{n}"} for n in range(stage)
        ]
    if ledger is not None:
        manifest["files"] |= give_part(package / name, ledger)
    text = json.dumps({**manifest, "task": name, "stage": stage + 1}, indent=2, sort_keys=True)
    (package / name / "clora.json").write_text(text, encoding="utf-8")


def give_part(folder: Path, ledger: Ledger) -> dict[str, str]:
    """Move the entries that an adapter owns of a shared LoRA to ones that nobody owns; return its files' checksums."""
    tensors, state = read_tensors(folder / "adapter_model.safetensors"), read_tensors(folder / "state.clora")
    idle = torch.cat([owner.flatten() == 0 for owner in ledger.owners.values()]).nonzero().flatten()
    own = torch.zeros(ledger.size, dtype=torch.bool)
    own[idle[torch.randperm(len(idle))[: ledger.owned[-1]]]] = True
    for (site, owner), part in zip(
        ledger.owners.items(), own.split([owner.numel() for owner in ledger.owners.values()]), strict=True
    ):
        state[mask_key(site)] = pack(part)
        tensors[f"base_model.model.{site}.lora_B.weight"] = 0.01 * part.view(owner.shape)
    save_tensors(folder / "adapter_model.safetensors", tensors)
    save_tensors(folder / "state.clora", state)
    return {name: sha256(folder / name) for name in ("adapter_model.safetensors", "state.clora")}


def resident() -> float:
    """Return the megabytes that this process holds now."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


def trained_here(options: TrainOptions) -> tuple[float, float]:
    """Train in this process; return CPU seconds and the megabytes that the process holds then."""
    began = time.process_time()
    train_task(make_plan(options))
    gc.collect()
    return time.process_time() - began, resident()


# A program of its own, as a process begins with the most memory that the one which started it has held.
_APART = """
import os, sys
child = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ)
_, status, usage = os.wait4(child, 0)
print(usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)
sys.exit(status != 0)
"""


def trained_by_command(options: TrainOptions) -> tuple[float, float]:
    """Train by a command; return its CPU seconds and the most megabytes that it held."""
    words = ["--data", options.data, "--package", options.package, "--method", options.method, "--max-steps", 1]
    words += [word for key, value in options.method_options.items() for word in ("-o", f"{key}={value}")]
    command = [sys.executable, "-m", "clora_cli", "train-task", *map(str, words), "--device", "cpu", "--quiet"]
    result = subprocess.run(
        [sys.executable, "-c", _APART, *command],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if result.returncode:
        raise SystemExit(f"{' '.join(command)} failed")
    seconds, megabytes = result.stdout.splitlines()[-1].split()
    return float(seconds), float(megabytes)


def main() -> None:
    """Train and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("method")
    parser.add_argument("--tasks", type=int, default=200)
    parser.add_argument("--window", type=int, default=10)
    parser.add_argument("--copied", action="store_true", help="copy the adapters in between")
    parser.add_argument("--commands", action="store_true", help="let the first and the last ones be commands")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable_progress_bar()
    seconds, megabytes = [], []
    with tempfile.TemporaryDirectory() as folder:
        for number, path in enumerate(write_tasks(Path(folder), arguments.tasks)):
            package = Path(folder) / "package"
            if arguments.copied and arguments.window < number < arguments.tasks - arguments.window:
                copy_adapter(package, package / "soak001", path.stem)
                continue
            options = TrainOptions(
                model="clora-nano",
                data=str(path),
                package=package,
                method=arguments.method,
                method_options=OPTIONS.get(arguments.method, {}),
                max_steps=1,
                device="cpu",
            )
            inner = arguments.window < number < arguments.tasks - arguments.window
            cost = trained_by_command(options) if arguments.commands and not inner else trained_here(options)
            seconds.append(cost[0])
            megabytes.append(cost[1])
    window = arguments.window
    first, last = seconds[1 : 1 + window], seconds[-window:]
    print(
        f"{arguments.method}: {arguments.tasks} tasks, {len(seconds)} trainings; CPU seconds {mean(first):.2f} at first, "
        f"{mean(last):.2f} at last ({mean(last) / mean(first):.3f} x); memory {megabytes[window]:.0f} MB, then {megabytes[-1]:.0f} MB "
        f"({megabytes[-1] / megabytes[window]:.3f} x)"
    )


if __name__ == "__main__":
    main()
