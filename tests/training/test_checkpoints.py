"""Checkpoints: nothing in them is pickled, damage is found before anything is used, and another one is taken instead."""

from __future__ import annotations

import json
import random
import shutil
from itertools import product

import numpy as np
import pytest
import torch
from refusals import refused
from support import Signals, contents

from clora_cli.base.errors import ArtifactError, InterruptedRunError
from clora_cli.base.files import sha256
from clora_cli.training import train_task
from clora_cli.training.checkpoints import last_checkpoint
from clora_cli.training.resuming import _random_states, _set_random_states

CHOSEN = {"method": "o-lora+n-lora", "dropout": 0.1, "max_steps": 6, "save_steps": 2}
FILES = {
    "adapter.safetensors",
    "checkpoint.json",
    "optimizer.safetensors",
    "random.safetensors",
    "state.json",
    "trainer_state.json",
}


@pytest.fixture
def unfinished(plan_for):
    """The folder of a run that was interrupted after its second checkpoint."""
    plan = plan_for(**CHOSEN)
    with pytest.raises(InterruptedRunError):
        train_task(plan, progress=Signals(after=3))
    return plan.work


def truncated(file):
    file.write_bytes(file.read_bytes()[:-3])


def flipped(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def empty(file):
    file.write_bytes(b"")


def missing(file):
    file.unlink()


def a_folder(file):
    file.unlink()
    file.mkdir()


def test_a_checkpoint_is_safetensors_and_json_and_at_least_two_are_kept(unfinished):
    assert sorted(path.name for path in unfinished.iterdir()) == ["checkpoint-2", "checkpoint-4", "plan.json"]
    for checkpoint in unfinished.glob("checkpoint-*"):
        assert {path.name for path in checkpoint.iterdir()} == FILES
        record = json.loads((checkpoint / "checkpoint.json").read_text(encoding="utf-8"))
        assert record["files"] == {name: sha256(checkpoint / name) for name in FILES - {"checkpoint.json"}}


def test_whatever_is_damaged_the_one_before_is_taken_and_that_is_told(unfinished, tmp_path):
    for number, (name, damage) in enumerate(product(sorted(FILES), (truncated, flipped, empty, missing, a_folder))):
        work, told = tmp_path / str(number), Signals()
        shutil.copytree(unfinished, work)
        damage(work / "checkpoint-4" / name)
        assert last_checkpoint(work, told) == work / "checkpoint-2", (name, damage)
        assert not (work / "checkpoint-4").exists()
        (warning,) = told.warnings
        assert warning.startswith(f"{work}/checkpoint-4 is damaged (") and (
            name in warning or name == "checkpoint.json"
        )
        assert warning.endswith("; continuing from checkpoint-2")


def test_a_run_with_a_damaged_checkpoint_continues_to_the_same_bytes(unfinished, plan_for, monkeypatch):
    expected = contents(train_task(plan_for(package="undisturbed", **CHOSEN))[0].path)
    flipped(unfinished / "checkpoint-4" / "optimizer.safetensors")

    def refuse(*_, **__):
        raise AssertionError("unpickled")

    monkeypatch.setattr(torch, "load", refuse)
    folder, _ = train_task(plan_for(**CHOSEN), resume=True)
    assert contents(folder.path) == expected
    assert not unfinished.exists()


def test_where_nothing_is_whole_it_is_told_how_to_start_anew(unfinished, plan_for):
    for checkpoint in unfinished.glob("checkpoint-*"):
        missing(checkpoint / "state.json")
    before = contents(unfinished)
    with refused(
        "no-usable-checkpoint", unfinished, "checkpoint-4", "state.json", "--force", error=ArtifactError
    ) as info:
        train_task(plan_for(**CHOSEN), resume=True)
    assert f"start anew with --force, or remove {unfinished}" in str(info.value)
    assert info.value.exit_code == 3
    assert contents(unfinished) == before
    assert train_task(plan_for(**CHOSEN), force=True)[1]


def test_a_checkpoint_of_0_1_0_is_refused_unread(unfinished, plan_for):
    for checkpoint in unfinished.glob("checkpoint-*"):
        shutil.rmtree(checkpoint)
        checkpoint.mkdir()
        (checkpoint / "optimizer.pt").write_bytes(b"\x80\x04")
        (checkpoint / "trainer_state.json").write_text("{}", encoding="utf-8")
    with refused("no-usable-checkpoint", unfinished, "0.1.0"):
        train_task(plan_for(**CHOSEN), resume=True)


@pytest.mark.parametrize("text", [None, "", "[]", "{"])
def test_without_its_plan_a_run_is_not_continued(unfinished, plan_for, text):
    missing(unfinished / "plan.json")
    if text is not None:
        (unfinished / "plan.json").write_text(text, encoding="utf-8")
    with refused("run-plan-damaged", unfinished / "plan.json", "--force"):
        train_task(plan_for(**CHOSEN), resume=True)
    assert len(list(unfinished.glob("checkpoint-*"))) == 2


def rewritten(checkpoint, name, content):
    """Replace a file as its writer would, checksum included: another version's, or a forger's."""
    (checkpoint / name).write_bytes(content)
    record = json.loads((checkpoint / "checkpoint.json").read_text(encoding="utf-8"))
    record["files"][name] = sha256(checkpoint / name)
    (checkpoint / "checkpoint.json").write_text(json.dumps(record), encoding="utf-8")


NONE = b"\x02\0\0\0\0\0\0\0{}"  # a safetensors file without tensors
MISFITS = [
    ("state.json", b"{}", "checkpoint-does-not-fit"),
    ("state.json", b'{"groups": 7, "scheduler": {}, "scaler": null}', "checkpoint-does-not-fit"),
    ("state.json", b"[]", "file-damaged"),
    ("trainer_state.json", b"[]", "checkpoint-does-not-fit"),
    ("trainer_state.json", b'{"global_step": "many"}', "checkpoint-does-not-fit"),
    ("trainer_state.json", b'{"no_such_thing": 1}', "checkpoint-does-not-fit"),
    ("trainer_state.json", b"nul", "checkpoint-does-not-fit"),
    ("optimizer.safetensors", b"no tensors", "tensor-file-damaged"),
    ("adapter.safetensors", NONE, "checkpoint-does-not-fit"),
]


def test_what_is_whole_but_does_not_fit_is_one_line(unfinished, plan_for):
    plan = plan_for(**CHOSEN)
    for name, content, code in MISFITS:
        before = (unfinished / "checkpoint-4" / name).read_bytes()
        rewritten(unfinished / "checkpoint-4", name, content)
        with refused(code, unfinished / "checkpoint-4", error=ArtifactError):
            train_task(plan, resume=True)
        rewritten(unfinished / "checkpoint-4", name, before)


def test_random_numbers_go_on_where_they_were():
    random.gauss(0, 1)  # keeps a second number for later
    np.random.standard_normal()
    states = _random_states(torch.device("cpu"))
    drawn = [random.gauss(0, 1), random.random(), np.random.standard_normal(3).tolist(), torch.rand(3).tolist()]
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    _set_random_states({name.removeprefix("0/"): state for name, state in states.items()}, torch.device("cpu"))
    assert drawn == [random.gauss(0, 1), random.random(), np.random.standard_normal(3).tolist(), torch.rand(3).tolist()]


def test_an_adapter_that_is_there_has_no_checkpoints_any_more(unfinished, plan_for):
    plan = plan_for(**CHOSEN)
    shutil.copytree(unfinished, unfinished.parent / "copy")
    train_task(plan, resume=True)
    (unfinished.parent / "copy").rename(unfinished)  # as if it had been killed before it could remove them
    assert not train_task(plan_for(**CHOSEN))[1]
    assert not unfinished.exists()
