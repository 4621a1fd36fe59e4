"""Several processes: the one place where the command line is run for real, since a launcher runs it so."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest
from safetensors.torch import load_file

SHORT = ("--max-steps", 3, "--batch-size", 4, "--rank", 2, "--alpha", 4, "--device", "cpu", "--method", "n-lora")


@pytest.fixture
def arguments(model_folder, tasks):
    return ("train-task", "--data", tasks["first"], "--model", model_folder("llama"), *SHORT)


def largest_difference(one, other):
    first, second = (load_file(folder / "first" / "adapter_model.safetensors") for folder in (one, other))
    assert set(first) == set(second)
    return max(float((first[key] - second[key]).abs().max()) for key in first)


def test_two_processes_train_the_adapter_that_one_trains(process, clora, arguments, here):
    assert clora(*arguments, "--package", "one", "-q").code == 0
    two = process("-m", "clora_cli", *arguments, "--package", "two", "--nproc", 2)
    assert (two.code, two.out) == (0, "two/first  (trained, stage 1)\n")
    assert two.err.count("\n") == 1
    assert two.err.startswith("train first: 3/3  loss ")
    assert largest_difference(here / "one", here / "two") < 1e-5
    # Under Accelerate's own launcher: --cpu would run one process without a word, so the launcher is told --multi_gpu,
    # which means several processes, and the command --device cpu.
    launcher = ("-m", "accelerate.commands.launch", "--multi_gpu", "--num_machines", 1, "--num_processes", 2)
    plain = ("--mixed_precision", "no", "--dynamo_backend", "no")
    three = process(*launcher, *plain, "-m", "clora_cli", *arguments, "--package", "three")
    assert (three.code, three.out) == (0, "three/first  (trained, stage 1)\n")
    assert largest_difference(here / "two", here / "three") == 0


def test_an_error_in_the_processes_is_told_once_and_its_exit_code_comes_back(process, arguments, here):
    result = process("-m", "clora_cli", *arguments, "--nproc", 2, "--data", "mnil")
    assert (result.code, result.out) == (3, "")
    assert result.err.startswith("error: 'mnil' is not among")
    assert result.err.count("\n") == 1
    assert list(here.iterdir()) == []


def test_batches_must_divide_among_the_processes(clora, arguments, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    result = clora(*arguments)
    assert result.code == 2
    assert "--batch-size 4 does not divide among 3 processes" in result.err


def test_an_interrupted_launch_keeps_a_checkpoint(arguments, here):
    long = ("--max-steps", 100000, "--save-steps", 5, "--nproc", 2)
    command = [sys.executable, "-m", "clora_cli", *map(str, (*arguments, *long))]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, start_new_session=True, **pipes) as running:
        deadline = time.monotonic() + 600
        while not list(here.glob("adapters/.first.unfinished/checkpoint-*/trainer_state.json")):
            assert running.poll() is None and time.monotonic() < deadline
            time.sleep(0.1)
        os.killpg(running.pid, signal.SIGINT)  # what Ctrl-C in a terminal does
        out, err = running.communicate(timeout=300)
    assert (running.returncode, out) == (130, "")
    assert err.startswith("error: interrupted at step ")
    assert err.endswith("of 100000; continue with --resume\n")
    assert err.count("\n") == 1
    step = int(err.split()[4])
    assert (here / f"adapters/.first.unfinished/checkpoint-{step}/trainer_state.json").is_file()
