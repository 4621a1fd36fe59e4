"""A process of a launch does not outlive what launched it."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

CHILD = """
import os, signal, sys, time
from clora_cli.processes.orphans import end_without
{ignore}
end_without(os.getppid(), grace=0.5)
print(os.getpid(), flush=True)
time.sleep(60)
"""
PARENT = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]], start_new_session=True)"


def gone(number: int) -> bool:
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs /proc to see a process that is not a child")
@pytest.mark.parametrize("ignore", ["", "signal.signal(signal.SIGTERM, signal.SIG_IGN)"])
def test_a_process_ends_soon_after_its_launcher_was_killed(ignore):
    command = [sys.executable, "-c", PARENT, CHILD.format(ignore=ignore)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        child = int(parent.stdout.readline())
        assert not gone(child)
        parent.kill()
        parent.wait()
        until = time.monotonic() + 20
        while not gone(child) and time.monotonic() < until:
            time.sleep(0.05)
    assert gone(child)
