"""Memory, penalty, comparison and filter at once: split batches, several processes, interruptions, other types."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file
from support import Signals, contents

from clora_cli.errors import InterruptedRunError, OptionError
from clora_cli.training import train_task

METHOD = "ewc+lwf+migu+replay"
CHOSEN = {"method": METHOD, "method_options": {"replay.rows": "5", "ewc.rows": "5"}, "lr": 1e-3}


@pytest.fixture
def learn(plan_for):
    """Train a task and return its folder."""

    def run(task, package="adapters", **chosen):
        return train_task(plan_for(task, package=package, **{**CHOSEN, **chosen}))[0]

    return run


def largest_difference(one, other):
    first, second = (load_file(folder / "adapter_model.safetensors") for folder in (one, other))
    return max(float((first[key] - second[key]).abs().max()) for key in first)


@pytest.mark.parametrize("family", ["llama", "t5"])
def test_gradient_accumulation_does_not_change_the_adapter(learn, family):
    found = []
    for batch_size, grad_accum in ((8, 1), (2, 4)):
        package = f"{family}-{grad_accum}"
        learn("first", package, family=family)
        found.append(learn("second", package, family=family, batch_size=batch_size, grad_accum=grad_accum))
    assert largest_difference(found[0].path, found[1].path) < 1e-5
    scores = [folder.manifest["scores"]["last_step"] for folder in found]
    assert set(scores[0]) == {"loss", "penalty/ewc", "penalty/lwf"}
    assert scores[0] == pytest.approx(scores[1], rel=1e-3, abs=1e-6)  # the old answers and the new ones nearly cancel


def test_two_processes_train_the_adapter_that_one_trains(learn, tmp_path, model_folder, tasks):
    for package in ("one", "two"):
        learn("first", package)
    one = learn("second", "one").path
    short = (
        "--max-steps 3 --batch-size 4 --rank 2 --alpha 4 --lr 1e-3 --device cpu -o replay.rows=5 -o ewc.rows=5".split()
    )
    command = ["train-task", "--data", tasks["second"], "--model", model_folder("llama"), "--package", tmp_path / "two"]
    command += ["--method", METHOD, *short, "--nproc", 2]
    result = subprocess.run(
        [sys.executable, "-m", "clora_cli", *map(str, command)],
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert result.returncode == 0, result.stderr
    two = tmp_path / "two" / "second"
    assert largest_difference(one, two) < 1e-5
    states = [load_file(folder / "state.clora") for folder in (one, two)]
    for name, kept in states[0].items():
        assert torch.allclose(kept, states[1][name], rtol=1e-2, atol=1e-4 * float(kept.max()))
    # Of zeros there is nothing to train together, and yet no process runs ahead.
    command = [
        "train-task",
        "--data",
        tasks["second"],
        "--model",
        model_folder("llama"),
        "--package",
        tmp_path / "none",
    ]
    command += ["--method", "zero-shot", "--nproc", 2]
    result = subprocess.run(
        [sys.executable, "-m", "clora_cli", *map(str, command)],
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize("after", [1, 4])
def test_an_interrupted_run_continues_to_the_same_bytes(learn, plan_for, after):
    chosen = {**CHOSEN, "dropout": 0.1, "max_steps": 6, "grad_accum": 2}
    learn("first", "undisturbed")
    learn("first")
    expected = contents(learn("second", "undisturbed", **chosen).path)
    plan = plan_for("second", **chosen)
    with pytest.raises(InterruptedRunError):
        train_task(plan, progress=Signals(after=after))
    assert contents(train_task(plan, resume=True)[0].path) == expected


@pytest.mark.parametrize("chosen", [{"dtype": "bfloat16"}, {"gradient_checkpointing": True}], ids=str)
def test_half_precision_and_checkpointing(learn, chosen):
    learn("first", **chosen)
    folder = learn("second", **chosen)
    assert all(bool(factor.b.isfinite().all()) for factor in folder.factors().values())
    if "dtype" not in chosen:
        learn("first", "plain")
        assert largest_difference(folder.path, learn("second", "plain").path) < 1e-4


def test_two_memories_do_not_go_together(plan_for):
    with pytest.raises(OptionError, match="past none, start previous"):
        plan_for(method="replay+mtl")
