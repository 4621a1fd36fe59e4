"""SIGINT, SIGTERM and SIGHUP: every command ends at once, tidily, with a status that tells which."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from clora_cli.processes import signals

ENDING = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
# A command that is in the middle of writing a folder when it gets there, and stays there.
WRITING = """
import sys, time
from clora_cli.transforming import trimming

def slowly(plan, folder):
    (folder / "half").write_text("x")
    print("writing", flush=True)
    time.sleep(60)

trimming.TrimPlan.write = slowly
from clora_cli.__main__ import main
sys.argv = ["clora", "trim", "adapters/first", "-o", "new/out", "--by", "density", "--density", "0.5"]
main()
"""


# A command that tells when it begins to import the others.
BEGINNING = """
import sys
from clora_cli import __main__ as program

leave = program.leave
program.leave = lambda: (leave(), print("begun", flush=True))
sys.argv = ["clora", "tasks"]
program.main()
"""

# A module that a signal reaches in a text given to `exec`, as when a library makes a dataclass.
WITHIN = """
import os, sys
from clora_cli.processes import signals

try:
    with signals.interruptible():
        exec("os.kill(os.getpid(), int(sys.argv[1]))\\nfor turn in range(9999): pass")
except KeyboardInterrupt:
    sys.exit(signals.exit_code())
"""


@pytest.mark.parametrize("number", ENDING)
def test_a_command_that_writes_ends_with_nothing_left(package, here, number):
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", WRITING], **pipes) as running:
        assert running.stdout.readline() == "writing\n"
        assert [path.name for path in (here / "new").iterdir()] != []
        running.send_signal(number)
        out, err = running.communicate(timeout=60)
    assert (running.returncode, out, err) == (128 + number, "", "")
    assert not (here / "new").exists() or list((here / "new").iterdir()) == []
    assert [path.name for path in here.rglob(".clora-*")] == []


@pytest.mark.parametrize("number", ENDING)
def test_a_command_ends_while_it_is_still_being_imported(here, number):
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    for delay in (0.0, 0.05, 0.15):
        with subprocess.Popen([sys.executable, "-c", BEGINNING], **pipes) as running:
            assert running.stdout.readline() == "begun\n"  # what comes before that is Python's own to tell
            time.sleep(delay)
            running.send_signal(number)
            _, err = running.communicate(timeout=60)
        assert (running.returncode in {128 + number, 0}, err) == (True, ""), delay


@pytest.mark.parametrize("number", ENDING)
def test_the_status_tells_the_signal_wherever_it_came(here, number):
    (here / "within.py").write_text(WITHIN)
    words = [sys.executable, "-m", "within", str(int(number))]
    result = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (128 + number, "")


def test_what_is_ignored_stays_ignored(here):
    code = (
        "import signal, sys; signal.signal(signal.SIGHUP, signal.SIG_IGN); from clora_cli.__main__ import main; main()"
    )
    os.mkfifo(here / "config")
    words = [sys.executable, "-c", code, "merge", "-c", "config", "x"]
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as running:
        with (here / "config").open("w"):  # it reads its options
            running.send_signal(signal.SIGHUP)
            with pytest.raises(subprocess.TimeoutExpired):
                running.wait(0.5)
            running.send_signal(signal.SIGTERM)
            assert running.wait(60) == 128 + signal.SIGTERM


class Dying:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        for _ in range(1000):
            pass


@pytest.mark.parametrize("delay", [0.0, 0.05])
def test_a_signal_that_comes_in_a_finalizer_is_not_lost_however_slow_the_machine_is(monkeypatch, delay):
    real, delays = signal.setitimer, [delay]

    def slowly(*given):
        real(*given)
        if delays:
            time.sleep(delays.pop())

    monkeypatch.setattr(signal, "setitimer", slowly)
    with pytest.raises(KeyboardInterrupt), signals.interruptible():
        Dying()
        time.sleep(10)
    assert signals.exit_code() == 128 + signal.SIGTERM


def test_handlers_are_given_back():
    before = [signal.getsignal(number) for number in ENDING]
    with signals.interruptible():
        assert signal.getsignal(signal.SIGHUP) is not before[2]
    assert [signal.getsignal(number) for number in ENDING] == before
