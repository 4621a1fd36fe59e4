"""A disk that is full or broken at any write ends a command in one line, and what was there before stays."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ATTACK = Path(__file__).parents[1] / "benchmarks" / "attack_disk.py"
COMMANDS = ("merge", "stat-features", "train-task, routed", "expand, replacing")


@pytest.mark.skipif(sys.platform != "linux" or shutil.which("cc") is None, reason="takes Linux and a C compiler")
def test_a_disk_that_fails_at_any_write_is_told_in_one_line_and_loses_nothing():
    words = ["--json", "--calls", "2", "--kinds", "full", "broken once", "--only", *COMMANDS]
    result = subprocess.run([sys.executable, ATTACK, *words], capture_output=True, text=True, check=False)
    assert result.stdout, result.stderr
    rows = json.loads(result.stdout)["commands"]
    assert [row["faults"] for row in rows] == [[]] * len(COMMANDS)
    assert all(row["told"] for row in rows)
