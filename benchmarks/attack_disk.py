"""Does a disk that is full, or broken, at any single write end a command in one line, with everything that was there before whole?

Each writing command is started in a copy of one folder, again and again; the n-th call that writes there (opening, writing,
``fsync``, renaming, making a folder …) fails, for n = 1, 2, 3 … until none does. Calls are counted by a small library that is
preloaded, ``full_disk.c``: it sees what Python, Rust and C write alike. A disk stays *full* from the n-th call on, or fails
that call alone; one that has become read-only refuses removals, too.

A command must end with exit code 1 and one line that says what, where and what to do; or as if nothing had been, where the
call did not matter. Files that were there must be what they were, or what the command makes of them. Nothing hidden may be left where
removing works; where it does not, the next command that writes there removes it. At last the same command is given again on a disk that
works, and must leave what an undisturbed one leaves.
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import random
import re
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from errno import EDQUOT, EIO, ENOSPC, EROFS
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from attacks import benchmark
from support import save_model, write_task
from transformers.utils import logging

from clora_cli.processes.leftovers import sweep

writers = benchmark("attack_writers")

_TRAIN = "train-task --max-steps 3 --save-steps 1 --batch-size 4 --train-rows 12 --device cpu --rank 2 --alpha 4"
COMMANDS: Mapping[str, str] = {
    "train-task": f"{_TRAIN} --data data/third --package pkg --method o-lora --resume",
    "train-task, replacing": f"{_TRAIN} --data data/second --package pkg --method per-task --seed 7 --force",
    "train-task, routed": f"{_TRAIN} --data data/third --package new/pfd --method pfd --resume",
    "train-task, shared": f"{_TRAIN} --data data/third --package cast --method cast --resume",
    "merge": "merge pkg -o merged --strategy magmax",
    "merge, replacing": "merge pkg/second -o old --force",
    "merge --dense": "merge pkg -o dense --strategy ties --dense",
    "merge --into-model": "merge pkg --into-model whole",
    "trim": "trim pkg/second -o trimmed --by density --density 0.5",
    "trim --plot": "trim pkg/second -o trimmed --by knee --plot figures/knee.png",
    "expand": "expand pkg -o both.pkg --rename second=other",
    "expand, replacing": "expand pkg/second -o union.pkg --force",
    "stat-features": "stat-features pkg --force --second-moment diag --limit 12 --device cpu",
    "stat-features, private": "stat-features pkg/second --force --dp-epsilon 1 --dp-delta 1e-5 --limit 12 --device cpu",
    "eval": "eval pkg --data data/second --test-rows 4 --device cpu -o new/scores.json",
    "eval, again": "eval pkg --data data/first --test-rows 4 --device cpu -o scores.json",
    "route": "route pkg --data data/second --confusion new/routes.json --heatmap heat.png --device cpu",
    "report": "report scores.json -o new/report.html -o report.md -o report.png",
    "show --diff": "show --diff pkg -o diff.svg",
    "export": "export pkg --for vllm -o exported",
    "export, replacing": "export pkg/second --for peft -o for-peft --force",
    "push": "push pkg new/shared --license mit --base-name org/base --scores scores.json",
    "push, replacing": "push pkg/second shared --license mit --base-name org/base --force",
    "pull": "pull shared -o new/pulled",
    "pull, replacing": "pull shared -o old --force",
    "run": "run tiny.yaml -q",
}
RECIPE = """\
name: tiny
tasks: [data/first, data/second]
methods: [{method: o-lora}]
train: {max-steps: 2, train-rows: 8, batch-size: 4, device: cpu, rank: 2}
eval: {test-rows: 4}
"""
KINDS = {
    "full": (ENOSPC, 1),
    "full once": (ENOSPC, 0),
    "quota": (EDQUOT, 1),
    "broken": (EIO, 1),
    "broken once": (EIO, 0),
    "read-only": (EROFS, 1),
}
RANDOM = {"stat-features, private": "pkg/second/features.clora"}
_VARYING = {"cost.jsonl", "run.log"}
_RECORD = struct.Struct("=qqqqq1024s1024s")


class Disk:
    """The record that processes share with the preloaded library.

    Args:
        path: Its file.
    """

    def __init__(self, path: Path) -> None:
        with path.open("r+b") as file:
            self._shared = mmap.mmap(file.fileno(), _RECORD.size)

    def fail(self, root: Path, at: int, error: int = ENOSPC, sticky: int = 1) -> None:
        """Let the n-th writing call below a folder fail; none for 0."""
        self._shared[:] = _RECORD.pack(at, error, sticky, 0, 0, os.fsencode(root), b"")

    def told(self) -> tuple[int, int, str]:
        """Return how many calls there were, how many failed, and which was the first of these."""
        _, _, _, count, fired, _, told = _RECORD.unpack(self._shared[:])
        return count, fired, os.fsdecode(told.rstrip(b"\0"))


@dataclass
class Victim:
    """A command on a disk that fails.

    Attributes:
        name: What it is called in the table.
        words: Its command line.
        template: What the folder holds before it.
        place: Where to work.
        disk: The disk.
        faults: One line for each thing that must not be.
    """

    name: str
    words: Sequence[str]
    template: Path
    place: Path
    disk: Disk
    faults: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        folder = self._fresh()
        self.disk.fail(folder, 0)
        if self._run(folder):
            sys.exit(f"{self.name} fails undisturbed: {self._said(folder)}")
        self.calls = self.disk.told()[0]
        self._before, self._after, self._usual = contents(self.template), self._contents(folder), self._said(folder)

    def attack(self, number: int, kind: str) -> str:
        """Let one call fail, look at what is left, give the command again; return what became of it."""
        folder, before = self._fresh(), len(self.faults)
        self.disk.fail(folder, number, *KINDS[kind])
        code = self._run(folder)
        _, fired, call = self.disk.told()
        self.disk.fail(folder, 0)
        if fired:
            self._call = f"{kind} at call {number}, {re.sub(r'-[0-9a-f-]{20,}', '', call)}"
            self._look(folder, code, hidden_may_stay=KINDS[kind][0] in (EIO, EROFS))
        done = visible(self._contents(folder)) == visible(self._after)
        self._run(folder)
        if done:  # only another command writes there again, and removes what is left
            for left in list(folder.rglob(".clora-*")):
                sweep(left.parent)
        if (found := self._contents(folder)) != self._after:
            odd = sorted(p for p in {*self._after, *found} if found.get(p) != self._after.get(p))
            self._fault(folder, f"given again: {odd[:3]} {self._said(folder)[-200:]}")
        if len(self.faults) == before:
            shutil.rmtree(folder.parent)
        return "told" if code else ("harmless" if fired else "not reached")

    def _look(self, folder: Path, code: int, hidden_may_stay: bool) -> None:
        found, said = self._contents(folder), self._said(folder)
        shown = visible(found)
        lines = [line for line in said.splitlines() if line not in self._usual]
        if code == 0 and shown != visible(self._after):
            self._fault(folder, "exit code 0, but it is not done")
        elif code and (code != 1 or not well_told(lines)):
            self._fault(folder, f"exit code {code}: {' / '.join(lines)[-600:]}")
        for path, content in shown.items():
            if content not in (self._before.get(path), self._after.get(path)):
                self._fault(folder, f"{path} is neither what it was nor what it is to be")
        if lost := [path for path in visible(self._before) if path in visible(self._after) and path not in found]:
            self._fault(folder, f"{lost[0]} is lost")
        hidden = [str(path.relative_to(folder)) for path in folder.rglob(".clora-*")]
        if hidden and not hidden_may_stay:
            self._fault(folder, f"left {hidden}")

    def _fault(self, folder: Path, what: str) -> None:
        self.faults.append(f"{self.name}: {self._call}: {what} ({folder})")

    def _contents(self, folder: Path) -> dict[str, bytes]:
        """Return every file; of one that is drawn by chance, whether it is the one that was there, and its length."""
        found, drawn = contents(folder), RANDOM.get(self.name, "")
        if drawn in found and found[drawn] != contents(self.template)[drawn]:
            found[drawn] = bytes(len(found[drawn]))
        return found

    def _fresh(self) -> Path:
        folder = Path(tempfile.mkdtemp(dir=self.place)) / "work"
        shutil.copytree(self.template, folder)
        return folder

    def _run(self, folder: Path) -> int:
        def apart() -> None:
            os.dup2(os.open(folder.parent / "out", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644), 1)

        (folder.parent / "said-0").unlink(missing_ok=True)
        return int(writers.run([self.words], folder, apart)[0])

    def _said(self, folder: Path) -> str:
        return (folder.parent / "said-0").read_text(encoding="utf-8", errors="replace")


def well_told(lines: Sequence[str]) -> bool:
    """Tell whether what a command said beside what it usually says is one line that tells what, where and what to do."""
    errors = [line for line in lines if line.startswith("error: ")]
    return len(errors) == 1 == len(lines) and ".clora-" not in errors[0] and ";" in errors[0] and len(errors[0]) < 500


def contents(folder: Path) -> dict[str, bytes]:
    """Return every file below a folder by its path, save those that tell times."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name not in _VARYING)
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def visible(found: Mapping[str, bytes]) -> dict[str, bytes]:
    """Leave out what is hidden: unfinished runs, locks and leftovers."""
    return {path: content for path, content in found.items() if not any(p.startswith(".") for p in Path(path).parts)}


def prepare(folder: Path) -> None:
    """Make what the commands begin with."""
    os.environ["CLORA_MODEL"] = str(save_model("llama", folder.parent / "model"))
    folder.mkdir()
    (folder / "tiny.yaml").write_text(RECIPE, encoding="utf-8")
    for number, name in enumerate(("first", "second", "third")):
        write_task(folder / "data" / name, number)
    lines = [
        f"{_TRAIN} --data data/first --package pkg --method inc-lora",
        f"{_TRAIN} --data data/second --package pkg --method inc-lora",
        f"{_TRAIN} --data data/first --package cast --method cast",
        "stat-features pkg --limit 12 --device cpu",
        "merge pkg -o old",
        "expand pkg -o union.pkg",
        "eval pkg --data data/second --test-rows 4 --device cpu -o scores.json",
        "report scores.json -o report.md",
        "export pkg --for peft -o for-peft",
        "push pkg shared --license mit --base-name org/base",
    ]
    for words in lines:
        if writers.run([words.split()], folder) != [0]:
            sys.exit(f"{words}: {(folder.parent / 'said-0').read_text()}")


def preloaded() -> Path:
    """Return the record's file; start this script again with the library preloaded, where it is not yet."""
    if record := os.environ.get("FULL_DISK"):
        return Path(record)
    place = Path(tempfile.mkdtemp(prefix="full-disk-"))
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if sys.platform != "linux" or compiler is None:
        sys.exit("this takes Linux and a C compiler")
    library, source = place / "full_disk.so", Path(__file__).with_name("full_disk.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)
    (place / "record").write_bytes(bytes(_RECORD.size))
    code = subprocess.run(
        [sys.executable, *sys.argv],
        env={**os.environ, "FULL_DISK": str(place / "record"), "LD_PRELOAD": str(library)},
        check=False,
    ).returncode
    shutil.rmtree(place)
    sys.exit(code)


def main() -> None:
    """Attack and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", choices=list(COMMANDS), help="these commands alone")
    parser.add_argument("--kinds", nargs="*", choices=list(KINDS), default=list(KINDS), help="of disks")
    parser.add_argument("--calls", type=int, default=0, help="of each command and kind, drawn; 0 for all of them")
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    options = parser.parse_args()
    disk, place = Disk(preloaded()), Path(tempfile.mkdtemp())
    os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "HF_HOME": str(place / "hub")}
    os.environ["TRANSFORMERS_VERBOSITY"] = "error"
    signal.signal(signal.SIGINT, signal.default_int_handler)
    writers.ready()
    logging.disable_progress_bar()  # as a command does that imports the libraries itself
    (place / "made").mkdir()
    prepare(place / "made" / "work")
    chosen, rows = random.Random(options.seed), []
    if not options.json:
        print(
            "| command | writing calls | attempts | told | harmless | faults | seconds |\n|---|---:|---:|---:|---:|---:|---:|"
        )
    for name in options.only or COMMANDS:
        began = time.monotonic()
        victim = Victim(name, COMMANDS[name].split(), place / "made" / "work", place, disk)
        ends = {"told": 0, "harmless": 0, "not reached": 0}
        for kind in options.kinds:
            calls = range(1, victim.calls + 1)
            for number in sorted(chosen.sample(calls, min(options.calls, len(calls)))) if options.calls else calls:
                ends[victim.attack(number, kind)] += 1
        seconds = time.monotonic() - began
        rows.append({"command": name, "calls": victim.calls, **ends, "faults": victim.faults, "seconds": seconds})
        if not options.json:
            cells = (
                victim.calls,
                sum(ends.values()),
                ends["told"],
                ends["harmless"],
                len(victim.faults),
                f"{seconds:.1f}",
            )
            print(f"| {name} | {' | '.join(map(str, cells))} |", flush=True)
            print("".join(f"  {fault}\n" for fault in victim.faults), end="", flush=True)
    failed = any(row["faults"] for row in rows)
    if not failed:
        shutil.rmtree(place)
    if options.json:
        print(json.dumps({"commands": rows}))
    sys.exit(failed)


if __name__ == "__main__":
    main()
