"""Does a run that is killed at random moments end with the bytes of an undisturbed one?

``clora run`` carries out a small recipe on the bundled model: three tasks, one method with a penalty over earlier adapters,
one that chooses by feature distributions. It is killed with SIGKILL, the process and whatever it started, again and again,
and started again each time. When it gets to its end, its folder is compared with that of a run that nobody disturbed; then
a new one begins, until there were as many kills as asked for.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

RECIPE = """\
name: killed
model: clora-nano
tasks: [yes-no, topics-news, sentiment-binary]
methods:
  - method: o-lora
  - method: per-task
    stat-features: {limit: 100, second-moment: diag}
    eval: {combine: route}
train: {max-steps: STEPS, train-rows: 200, device: cpu}
eval: {test-rows: 40}
"""
_NOT_COMPARED = {".lock", "run.log", "cost.jsonl", "recipe.yaml"}


def start(folder: Path) -> subprocess.Popen[bytes]:
    """Start the run in a folder, in a process group of its own."""
    command = [sys.executable, "-m", "clora_cli", "run", "../killed.yaml", "-q"]
    with (folder / "said.txt").open("ab") as said:
        return subprocess.Popen(command, cwd=folder, stdout=said, stderr=said, start_new_session=True)


def contents(folder: Path) -> dict[str, bytes]:
    """Return what must be equal: every file below, by its path, save logs, costs and locks."""
    files = (path for path in sorted((folder / "runs").rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files if path.name not in _NOT_COMPARED}


def commands(folder: Path) -> list[str]:
    """Return the commands that were begun so far, the last one last."""
    logs = sorted(folder.glob("runs/killed/*/seed-42/run.log"), key=lambda path: path.stat().st_mtime)
    lines = [line for log in logs for line in log.read_text(encoding="utf-8", errors="replace").splitlines()]
    return [line.split()[2] for line in lines if line.startswith("$ clora ")]


def undisturbed(root: Path) -> tuple[dict[str, bytes], float]:
    """Return an undisturbed run's files, and its seconds."""
    folder = root / "undisturbed"
    folder.mkdir()
    began = time.monotonic()
    if start(folder).wait():
        sys.exit(f"the undisturbed run failed: {(folder / 'said.txt').read_text()}")
    return contents(folder), time.monotonic() - began


def disturbed(folder: Path, kills: int, seconds: float, chosen: random.Random, moments: Counter[str]) -> int:
    """Kill a run until it ends all the same, or has been killed often enough; return how often it was killed."""
    folder.mkdir()
    count = 0
    while True:
        before = len(commands(folder))
        process = start(folder)
        if count and chosen.random() < 0.8:  # else while it imports and looks at what is there, perhaps
            while process.poll() is None and len(commands(folder)) == before:
                time.sleep(0.02)
        delay = chosen.uniform(0, seconds) if count < kills else None
        try:
            code = process.wait(timeout=delay)
        except subprocess.TimeoutExpired:
            process.kill()  # and what it started must end by itself
            process.wait()
            count += 1
            begun = commands(folder)
            moments[f"in or after {begun[-1]}" if len(begun) > before else "before its first command"] += 1
            continue
        if code:
            sys.exit(f"the run failed after {count} kills: {(folder / 'said.txt').read_text()}")
        return count


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, help="kills in all (default %(default)s)")
    parser.add_argument("--steps", type=int, default=20, help="training steps of a task (default %(default)s)")
    parser.add_argument("--longest", type=float, default=0.15, help="latest kill, as a share of a whole run's time")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of text")
    options = parser.parse_args()
    chosen, moments, killed, runs = random.Random(options.seed), Counter[str](), 0, 0
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        (root / "killed.yaml").write_text(RECIPE.replace("STEPS", str(options.steps)), encoding="utf-8")
        wanted, seconds = undisturbed(root)
        while killed < options.kills:
            folder = root / f"disturbed-{runs}"
            killed += disturbed(folder, options.kills - killed, options.longest * seconds, chosen, moments)
            runs += 1
            found = contents(folder)
            if found != wanted:
                odd = sorted(path for path in wanted.keys() | found.keys() if wanted.get(path) != found.get(path))
                sys.exit(f"after {killed} kills these files differ: {', '.join(odd)}")
            costs = (folder / "runs" / "killed" / "cost.jsonl").read_text(encoding="utf-8").splitlines()
            steps = [json.loads(line) for line in costs]  # whole lines, all of them
            done = Counter((step["method"], step["task"], step["step"]) for step in steps)
            if max(done.values()) > 1:
                sys.exit(f"done twice: {[key for key, count in done.items() if count > 1]}")
    result: dict[str, Any] = {
        "kills": killed,
        "runs": runs,
        "seconds_undisturbed": round(seconds, 1),
        "files_compared": len(wanted),
        "killed": dict(moments),
        "equal": True,
    }
    print(json.dumps(result) if options.json else "\n".join(f"{key:22}{value}" for key, value in result.items()))


if __name__ == "__main__":
    main()
