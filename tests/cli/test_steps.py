"""The process that carries out commands for ``clora run``, with commands that need no model."""

from __future__ import annotations

import errno
import os
import signal
import sys
import threading
import time

import pytest

from clora_cli.recipes.workers import Worker


@pytest.fixture
def worker():
    made = Worker([sys.executable, "-m", "clora_cli.cli._steps"], {**os.environ, "PYTHONUNBUFFERED": "1"})
    yield made
    made.close()


@pytest.fixture
def endless(tmp_path):
    """A command that reads its configuration from a pipe that nobody writes to."""
    os.mkfifo(tmp_path / "pipe")
    return ["merge", "-c", str(tmp_path / "pipe")]


def test_commands_run_one_after_another_as_by_hand(worker, tmp_path):
    said = []
    outcome = worker.run(["tasks", "-q"], tmp_path, said.append)
    assert (outcome.code, outcome.message) == (0, "")
    assert "yes-no" in said and "mnli" in said
    assert outcome.peak_memory > 10e6 and outcome.seconds > 0 and outcome.peak_device is None
    outcome = worker.run(["tasks", "mnil"], tmp_path, said.append)
    assert outcome.code == 3
    assert outcome.message.startswith("'mnil' is not among the bundled tasks")
    assert worker.run(["run", "--list", "nano", "-q"], tmp_path, said.append).code == 0
    assert "compare-nano" in said


@pytest.fixture
def waiting(worker, endless, tmp_path):
    """The thread in which that command runs, by now in a process of its own, and what came of it."""
    outcomes = []
    thread = threading.Thread(target=lambda: outcomes.append(worker.run(endless, tmp_path, lambda line: None)))
    thread.start()
    deadline = time.monotonic() + 60
    while not worker._pid and time.monotonic() < deadline:
        time.sleep(0.05)
    return thread, outcomes


def test_a_command_is_ended_by_a_signal(worker, waiting):
    thread, outcomes = waiting
    worker.stop(signal.SIGTERM)
    thread.join(timeout=60)
    assert (outcomes[0].code, outcomes[0].message) == (128 + signal.SIGTERM, "ended by SIGTERM")


def test_it_can_be_stopped_before_a_command_runs(worker, tmp_path):
    worker.stop(signal.SIGINT)
    outcome = worker.run(["tasks", "-q"], tmp_path, lambda line: None)
    assert (outcome.code, worker.alive) == (128 + signal.SIGKILL, False)


def test_it_ends_with_its_command_when_nobody_is_left(worker, waiting, tmp_path):
    thread, outcomes = waiting
    child = worker._pid
    worker._process.stdin.close()
    thread.join(timeout=60)
    assert not thread.is_alive()
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)
    assert outcomes[0].code == 128 + signal.SIGKILL
    assert not worker.alive
    assert list(tmp_path.glob(".clora-*")) == []


def test_a_command_that_nobody_hears_any_more_ends_by_itself(worker, tmp_path):
    def full(line):
        raise OSError(errno.ENOSPC, "no space left")

    for words in (["tasks"], ["tasks", "mnil"]):  # the second ends as its line is heard
        with pytest.raises(OSError, match="no space left"):
            worker.run(words, tmp_path, full)
        assert list(tmp_path.glob(".clora-*")) == []
    said = []
    assert worker.run(["tasks", "-q"], tmp_path, said.append).code == 0
    assert "yes-no" in said
