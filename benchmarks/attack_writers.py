"""Do two commands that write at the same time leave what one after the other would have left?

Pairs of commands are started at the same instant in a copy of one folder, while commands that only read it run beside them.
Afterwards the folder must be, byte for byte, what the two commands leave in one order or the other, with the same exit
statuses; or, without ``--wait``, what one of them leaves when the other was refused. No reader may fail, and nothing hidden
may be left.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import itertools
import json
import os
import random
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from clora_cli.cli import main as clora

State = tuple[tuple[tuple[str, bytes], ...], tuple[int, ...]]
_READY = (
    "clora_cli.training.build",
    "clora_cli.training.loop",
    "clora_cli.training.fit",
    "clora_cli.training.describe",
    "clora_cli.routing.route_settings",
    "clora_cli.presenting.markdown_tables",
    "clora_cli.reporting",
    "clora_cli.transforming",
    "peft",
    "typer._adapters",
)
_RECORDED = {"CLORA_MODEL": "clora-nano", "HF_HUB_OFFLINE": "1"}
_TRAIN = [
    "train-task",
    "--max-steps",
    "2",
    "--batch-size",
    "4",
    "--train-rows",
    "16",
    "--device",
    "cpu",
    "--rank",
    "2",
    "--alpha",
    "4",
]
_BOTH = ["--data", "DATA1", "--data", "DATA2"]
_TAKE = ["--limit", "12", "--device", "cpu", "-q"]


@dataclass
class Table:
    """What was tried and what came of it.

    Attributes:
        pairs: Name of the pair to how often it was tried.
        orders: How often the first, the second, or only one came through.
        reads: How many reading commands ran meanwhile.
        faults: One line for each thing that must not be.
    """

    pairs: Counter[str] = field(default_factory=Counter)
    orders: Counter[str] = field(default_factory=Counter)
    reads: int = 0
    faults: list[str] = field(default_factory=list)


def start(
    words: Sequence[str], folder: Path, gate: int, said: Path, before: Callable[[], object] = lambda: None
) -> int:
    """Fork a process that runs a command in a folder as soon as the gate opens; return its number."""
    child = os.fork()
    if child:
        return child
    code = 70
    try:
        os.chdir(folder)
        for stream in (1, 2):
            os.dup2(os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644), stream)
        os.read(gate, 1)
        sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
        sys.argv = ["clora", *words]
        before()
        clora()
    except SystemExit as end:
        code = int(end.code or 0)
    except BaseException:  # a traceback that a user would see
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def run(lines: Sequence[Sequence[str]], folder: Path, before: Callable[[], object] = lambda: None) -> list[int]:
    """Run commands side by side in a folder, each after a call; return their exit statuses."""
    gate, opening = os.pipe()
    said = [folder.parent / f"said-{number}" for number in range(len(lines))]
    children = [start(words, folder, gate, out, before) for words, out in zip(lines, said, strict=True)]
    os.close(gate)
    os.write(opening, b"x" * len(children))
    os.close(opening)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def state(folder: Path, codes: Sequence[int]) -> State:
    """Return everything that is in a folder, with the commands' exit statuses."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return tuple((str(path.relative_to(folder)), path.read_bytes()) for path in files), tuple(codes)


class Attack:
    """Pairs of commands against one folder.

    Args:
        template: The folder that each pair gets a copy of.
        writers: Name to command line; all of them write there.
        readers: Command lines that only read it.
        place: Where to work.
        seed: Of what is drawn.
    """

    def __init__(
        self,
        template: Path,
        writers: Mapping[str, Sequence[str]],
        readers: Sequence[Sequence[str]],
        place: Path,
        seed: int,
    ) -> None:
        self._template, self._writers, self._readers = template, writers, readers
        self._place, self._chosen, self._number = place, random.Random(seed), itertools.count()
        self._serial: dict[tuple[tuple[str, ...], bool], State] = {}
        self.table, self.pause = Table(), 0.0  # seconds between two readers

    def serial(self, names: tuple[str, ...], wait: bool) -> State:
        """Return what commands leave that run one after another."""
        if (names, wait) not in self._serial:
            folder = self._copy()
            codes = [run([self._words(name, wait)], folder)[0] for name in names]
            self._serial[names, wait] = state(folder, codes)
        return self._serial[names, wait]

    def pair(self, first: str, second: str, wait: bool) -> None:
        """Run two commands at once, and readers beside them, and judge what they leave."""
        folder, table, lines = self._copy(), self.table, [self._words(first, wait), self._words(second, wait)]
        table.pairs[f"{first} | {second}"] += 1
        gate, opening = os.pipe()
        reader = self._read_on(folder, gate, opening)
        codes = run(lines, folder)
        os.close(opening)
        reads, failed = (
            (int(text) for text in Path(f"{folder}-reads").read_text().split()) if os.waitpid(reader, 0) else (0, 0)
        )
        os.close(gate)
        table.reads += reads
        table.orders[self._judge(first, second, wait, folder, codes)] += 1
        if failed:
            table.faults.append(f"{first} | {second}: {failed} of {reads} readers failed, see {folder}-read")
        if hidden := [path.name for path in folder.rglob(".clora-*")]:
            table.faults.append(f"{first} | {second}: left {hidden[0]}")
        if not table.faults:
            shutil.rmtree(folder)

    def _judge(self, first: str, second: str, wait: bool, folder: Path, codes: Sequence[int]) -> str:
        found = state(folder, codes)
        if found == self.serial((first, second), wait):
            return "as if the first came first"
        files, reversed_codes = self.serial((second, first), wait)
        if found == (files, reversed_codes[::-1]):
            return "as if the second came first"
        for number, name in enumerate((first, second)):
            alone = self.serial((name,), wait)
            if not wait and codes[1 - number] == 1 and found[0] == alone[0] and codes[number] == alone[1][0]:
                return "one was refused"
        said = " / ".join((folder.parent / f"said-{n}").read_text(errors="replace").strip()[-300:] for n in (0, 1))
        self.table.faults.append(f"{first} | {second}: of no order, {list(codes)}, {folder}: {said}")
        return "of no order"

    def _read_on(self, folder: Path, gate: int, opening: int) -> int:
        """Fork a process that runs reading commands until the gate closes."""
        child = os.fork()
        if child:
            return child
        os.close(opening)
        reads = failed = 0
        os.set_blocking(gate, False)
        try:
            for words in itertools.cycle(self._readers):
                try:
                    if not os.read(gate, 1):
                        break
                except BlockingIOError:
                    pass
                ready, push = os.pipe()
                reader = start(words, folder, ready, Path(f"{folder}-read"))
                os.write(push, b"x")
                failed += os.waitpid(reader, 0)[1] != 0
                os.close(ready)
                os.close(push)
                reads += 1
                time.sleep(self.pause)
            Path(f"{folder}-reads").write_text(f"{reads} {failed}")
        finally:
            os._exit(0)

    def _copy(self) -> Path:
        folder = self._place / str(next(self._number)) / "work"
        shutil.copytree(self._template, folder, symlinks=True)
        return folder

    def _words(self, name: str, wait: bool) -> list[str]:
        return [*self._writers[name], *(["--wait"] if wait else [])]


WRITERS: Mapping[str, Sequence[str]] = {
    "merge all": ["merge", "pkg/first", "pkg/second", "-o", "pkg/all", "--strategy", "average"],
    "merge two": ["merge", "pkg/first", "pkg/second", "-o", "out/two"],
    "merge two otherwise": ["merge", "pkg/first", "pkg/second", "-o", "out/two", "--strategy", "magmax", "--force"],
    "trim": ["trim", "pkg/first", "-o", "out/small", "--by", "density", "--density", "0.5"],
    "trim over a merge": ["trim", "pkg/first", "-o", "out/two", "--by", "density", "--density", "0.2", "--force"],
    "expand": ["expand", "pkg", "-o", "union"],
    "expand over it": ["expand", "pkg/second", "-o", "union", "--force"],
    "features": ["stat-features", "pkg", "--force", "--second-moment", "diag", *_BOTH, *_TAKE],
    "more rows": ["stat-features", "pkg/first", "--add", "--data", "DATA2", *_TAKE],
    "train": [*_TRAIN, "--data", "DATA3", "--package", "pkg", "--method", "o-lora"],
    "train another": [*_TRAIN, "--data", "DATA4", "--package", "pkg", "--method", "inc-lora"],
    "train again": [*_TRAIN, "--data", "DATA1", "--package", "pkg", "--method", "inc-lora", "--force", "--seed", "7"],
    "own a part": [*_TRAIN, "--data", "DATA1", "--package", "shared", "--method", "cast"],
    "own another part": [*_TRAIN, "--data", "DATA2", "--package", "shared", "--method", "cast"],
}
READERS: Sequence[Sequence[str]] = (
    ["show", "pkg", "--json"],
    ["merge", "pkg/first", "pkg/second", "-o", "nowhere", "--dry-run"],
    ["eval", "pkg", "--dry-run", "--data", "DATA1"],
    ["report", "pkg", "--json"],
)
CLASHES = (
    ("merge all", "merge two"),
    ("merge two", "merge two otherwise"),
    ("merge two otherwise", "trim over a merge"),
    ("trim", "merge all"),
    ("expand", "expand over it"),
    ("expand", "expand"),
    ("expand", "merge two"),
    ("features", "more rows"),
    ("more rows", "more rows"),
    ("features", "trim"),
    ("train", "train another"),
    ("train", "train"),
    ("train", "merge all"),
    ("train again", "features"),
    ("train again", "merge two"),
    ("own a part", "own another part"),
)


def named(lines: Mapping[str, Sequence[str]], names: Mapping[str, str]) -> dict[str, list[str]]:
    """Return command lines in which names stand for data and members."""
    members = {
        f"pkg/{place}": f"pkg/{Path(names[data]).name}" for place, data in (("first", "DATA1"), ("second", "DATA2"))
    }
    return {key: [{**names, **members}.get(word, word) for word in words] for key, words in lines.items()}


def prepare(folder: Path, names: Mapping[str, str]) -> None:
    """Make a package of two adapters with distributions."""
    folder.mkdir(parents=True)
    train = named({"": _TRAIN}, names)[""]
    for number in (1, 2):
        made = run([[*train, "--data", names[f"DATA{number}"], "--package", "pkg", "--method", "inc-lora"]], folder)
        if made != [0]:
            sys.exit((folder.parent / "said-0").read_text())
    if run(list(named({"": ["stat-features", "pkg", *_BOTH, *_TAKE]}, names).values()), folder) != [0]:
        sys.exit((folder.parent / "said-0").read_text())


def ready() -> None:
    """Import what commands need, so that forks need not."""
    for name in _READY:
        importlib.import_module(name)
    gc.freeze()  # what is there now is never looked at again, so that forks share its memory


def main() -> None:
    """Attack and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=160, help="pairs in all (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of text")
    options = parser.parse_args()
    os.environ.update(_RECORDED)
    ready()
    names = {
        f"DATA{n}": task for n, task in enumerate(("yes-no", "topics-news", "sentiment-binary", "inference"), start=1)
    }
    began = time.monotonic()
    place = Path(tempfile.mkdtemp())
    prepare(place / "made" / "work", names)
    readers = list(named(dict(enumerate(READERS)), names).values())  # type: ignore[arg-type]
    attack = Attack(place / "made" / "work", named(WRITERS, names), readers, place, options.seed)
    for number in range(options.pairs):
        attack.pair(*CLASHES[number % len(CLASHES)], wait=(number // len(CLASHES)) % 2 == 0)
    table = attack.table
    result = {
        "pairs": sum(table.pairs.values()),
        "combinations": len(table.pairs),
        "results": dict(table.orders),
        "readers": table.reads,
        "faults": table.faults,
        "seconds": round(time.monotonic() - began, 1),
    }
    if not table.faults:
        shutil.rmtree(place)
    print(json.dumps(result) if options.json else "\n".join(f"{key:14}{value}" for key, value in result.items()))
    sys.exit(bool(table.faults))


if __name__ == "__main__":
    main()
