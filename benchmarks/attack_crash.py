"""Does a command that is killed at any moment leave everything whole, and does the same command then end as if nothing had been?

Each writing command is started in a copy of one folder and killed at a random moment, or ended by SIGTERM, SIGHUP or
SIGINT. Then every file that was there must be what it was or what the command makes of it, whole; a signal that can be
handled must leave nothing hidden, no process and no traceback, and its own exit status. At last the same command is given again
and must leave, byte for byte, what an undisturbed one leaves, and no leftovers.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

TRAIN = "train-task --max-steps 6 --save-steps 2 --batch-size 4 --train-rows 32 --device cpu --rank 2 --alpha 4"
COMMANDS: Mapping[str, str] = {
    "train-task": f"{TRAIN} --data sentiment-binary --package pkg --method o-lora --resume",
    "train-task, replacing": f"{TRAIN} --data yes-no --package pkg --method per-task --seed 7 --force",
    "train-task --nproc 2": f"{TRAIN} --data sentiment-binary --package pkg --method inc-lora --resume --nproc 2",
    "merge": "merge pkg -o merged --strategy magmax",
    "merge, replacing": "merge pkg/yes-no -o old --force",
    "merge --into-model": "merge pkg --into-model model",
    "trim": "trim pkg/yes-no -o trimmed --by density --density 0.5",
    "expand": "expand pkg -o both.pkg",
    "expand, replacing": "expand pkg/yes-no -o union.pkg --force",
    "stat-features": "stat-features pkg --force --second-moment diag --limit 20 --device cpu",
    "eval": "eval pkg --data yes-no --test-rows 8 --device cpu -o scores.json",
    "route": "route pkg --data yes-no --confusion routes.json --device cpu",
    "report": "report scores-there.json -o report.html",
    "run": "run tiny.yaml --jobs 2 -q",
    "train-task --keep-if": f"{TRAIN} --data sentiment-binary -p pkg --method inc-lora --resume --keep-if fail-under=0 "
    "--keep-if max-forgetting=100 --keep-if rows=8",
    "push": "push pkg shared --license mit",
    "push, replacing": "push pkg shared-one --license mit --force",
    "pull": "pull shared-both -o pulled",
    "pull, replacing": "pull shared-both -o pulled-one --force",
}
RECIPE = """\
name: tiny
model: clora-nano
tasks: [yes-no, topics-news]
methods: [{method: o-lora}, {method: per-task}]
train: {max-steps: 4, train-rows: 32, batch-size: 4, device: cpu}
eval: {test-rows: 8}
"""
_ENDINGS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
_VARYING = {"cost.jsonl", "run.log"}


def start(words: str, folder: Path) -> subprocess.Popen[bytes]:
    """Start a command in a folder, in a process group of its own."""
    with (folder.parent / "said").open("wb") as said:
        command = [sys.executable, "-m", "clora_cli", *words.split()]
        return subprocess.Popen(command, cwd=folder, stdout=said, stderr=said, start_new_session=True)


def said(folder: Path) -> str:
    """Return what the last command said."""
    return (folder.parent / "said").read_text(encoding="utf-8", errors="replace")


def contents(folder: Path) -> dict[str, bytes]:
    """Return every file below a folder by its path, save those that tell times."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name not in _VARYING)
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def visible(found: Mapping[str, bytes]) -> dict[str, bytes]:
    """Leave out what is hidden: unfinished runs, locks and leftovers."""
    return {path: content for path, content in found.items() if not any(p.startswith(".") for p in Path(path).parts)}


def group_is_alive(number: int, patience: float) -> bool:
    """Tell whether a process of a group, or of a session that it began, is still there after a while."""
    deadline = time.monotonic() + patience
    while True:
        alive = subprocess.run(["pgrep", "-g", str(number)], capture_output=True, check=False).returncode == 0
        if not alive or time.monotonic() > deadline:
            return alive
        time.sleep(0.05)


class Victim:
    """A command that is killed again and again.

    Args:
        name: What it is called in the table.
        words: Its command line.
        template: What the folder holds before it.
        place: Where to work.
    """

    def __init__(self, name: str, words: str, template: Path, place: Path) -> None:
        self._words, self._template, self._place = words, template, place / name.replace(" ", "_")
        self.faults: list[str] = []
        folder = self._fresh("undisturbed")
        began = time.monotonic()
        if start(words, folder).wait():
            sys.exit(f"{name} fails undisturbed: {said(folder)}")
        self.seconds = time.monotonic() - began
        self._before, self._after = contents(template), contents(folder)

    def attack(self, number: int, moment: float, ending: signal.Signals) -> str:
        """Kill the command once, look at what it left, give it again; return what became of it."""
        folder = self._fresh(str(number))
        process = start(self._words, folder)
        try:
            process.wait(timeout=moment)
        except subprocess.TimeoutExpired:
            process.send_signal(ending)
        code = process.wait(timeout=120)
        self._look(folder, code, ending, f"{ending.name} after {moment:.2f} s")
        if group_is_alive(process.pid, 20):
            self.faults.append(f"{self._place.name}: {ending.name} after {moment:.2f} s: processes left")
        again = start(self._words, folder)
        again.wait(timeout=600)  # it may refuse what is there already: what is there must be right
        if contents(folder) != self._after:
            odd = sorted(p for p in {*self._after, *contents(folder)} if contents(folder).get(p) != self._after.get(p))
            self.faults.append(
                f"{folder}: {ending.name} after {moment:.2f} s, given again: {odd[:3]} {said(folder)[-300:]}"
            )
        elif not self.faults:
            shutil.rmtree(folder.parent)
        return "had ended" if code == 0 else "ended by it"

    def _look(self, folder: Path, code: int, ending: signal.Signals, told: str) -> None:
        found = contents(folder)
        for path, content in visible(found).items():
            if content not in (self._before.get(path), self._after.get(path)):
                self.faults.append(f"{folder}: {told}: {path} is neither what it was nor what it is to be")
        if lost := [path for path in visible(self._before) if path in visible(self._after) and path not in found]:
            self.faults.append(f"{folder}: {told}: {lost[0]} is lost")
        if ending == signal.SIGKILL or code == 0:
            return
        hidden = [path.name for path in folder.rglob(".clora-*")]
        if hidden or "Traceback" in said(folder):
            self.faults.append(f"{folder}: {told}: {hidden or said(folder)[-400:]}")
        if code not in (128 + ending, -ending):  # the second is how it ends before Python has begun
            self.faults.append(f"{folder}: {told}: exit status {code}: {said(folder)[-300:]}")

    def _fresh(self, name: str) -> Path:
        folder = self._place / name / "work"
        shutil.copytree(self._template, folder)
        return folder


def prepare(folder: Path) -> None:
    """Make what the commands begin with."""
    folder.mkdir(parents=True)
    (folder / "tiny.yaml").write_text(RECIPE, encoding="utf-8")
    lines = [
        f"{TRAIN} --data yes-no --package pkg --method inc-lora",
        f"{TRAIN} --data topics-news --package pkg --method inc-lora",
        "stat-features pkg --limit 20 --device cpu",
        "merge pkg -o old",
        "expand pkg -o union.pkg",
        "eval pkg --data yes-no --test-rows 8 --device cpu -o scores-there.json",
        "push pkg shared-both --license mit",
        "push pkg/yes-no shared-one --license mit",
        "pull shared-one -o pulled-one",
    ]
    for words in lines:
        if start(words, folder).wait():
            sys.exit(f"{words}: {said(folder)}")


def main() -> None:
    """Attack and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10, help="of each command (default %(default)s)")
    parser.add_argument("--only", nargs="*", choices=list(COMMANDS), help="these commands alone")
    parser.add_argument("--early", type=float, default=0.2, help="share of kills within the first 0.2 seconds")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    options = parser.parse_args()
    os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "CLORA_MODEL": "clora-nano"}
    signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # what a shell ignores for its background jobs is ignored by all
    chosen, place, rows = random.Random(options.seed), Path(tempfile.mkdtemp()), []
    prepare(place / "made" / "work")
    for name in options.only or COMMANDS:
        victim, ends = Victim(name, COMMANDS[name], place / "made" / "work", place), Counter[str]()
        for number in range(options.kills):
            longest = 0.2 if chosen.random() < options.early else victim.seconds
            ends[victim.attack(number, chosen.uniform(0, longest), chosen.choice(_ENDINGS))] += 1
        rows.append({"command": name, "kills": options.kills, **ends, "faults": victim.faults})
        if not options.json:
            print(
                f"{name:24}{options.kills:>6} kills, {ends['had ended']:>4} too late, {len(victim.faults):>3} faults",
                flush=True,
            )
            print("".join(f"  {fault}\n" for fault in victim.faults), end="", flush=True)
    failed = any(row["faults"] for row in rows)
    if not failed:
        shutil.rmtree(place)
    if options.json:
        print(json.dumps({"commands": rows}))
    sys.exit(failed)


if __name__ == "__main__":
    main()
