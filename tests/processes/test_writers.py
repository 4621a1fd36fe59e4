"""Commands that write at the same time leave what one after the other would have left, and readers beside them never fail."""

from __future__ import annotations

import sys

import pytest
from attacks import benchmark
from support import write_task

QUICK = (
    ("merge two", "merge two otherwise"),
    ("merge two otherwise", "trim over a merge"),
    ("expand", "expand over it"),
    ("more rows", "more rows"),
    ("features", "trim"),
)
DEAR = (
    ("train", "train another"),
    ("train", "merge all"),
    ("train again", "features"),
    ("own a part", "own another part"),
    ("train", "train"),
)
TURNS = 6


@pytest.fixture
def attack(tmp_path, model_folder, monkeypatch):
    writers = benchmark("attack_writers")
    writers.ready()
    monkeypatch.setenv("CLORA_MODEL", str(model_folder("llama")))
    monkeypatch.setenv("TRANSFORMERS_VERBOSITY", "error")
    names = {f"DATA{number}": str(write_task(tmp_path / f"set{number}", number)) for number in range(1, 5)}
    writers.prepare(tmp_path / "made" / "work", names)
    lines = writers.named(writers.WRITERS, names)
    readers = list(writers.named(dict(enumerate(writers.READERS)), names).values())
    return writers.Attack(tmp_path / "made" / "work", lines, readers, tmp_path, seed=0)


@pytest.mark.skipif(sys.platform != "linux", reason="forks of a process that has loaded PyTorch")
def test_two_writers_leave_what_one_after_the_other_leaves(attack):
    attack.pause = 0.3
    for number, pair in enumerate(QUICK):
        for _ in range(TURNS):
            attack.pair(*pair, wait=number > 0)
    for pair in DEAR:
        attack.pair(*pair, wait=pair[0] != pair[1])
    table = attack.table
    assert table.faults == []
    assert sum(table.pairs.values()) == len(QUICK) * TURNS + len(DEAR)
    assert table.reads > 10
    assert {"as if the first came first", "one was refused"} <= set(table.orders)
