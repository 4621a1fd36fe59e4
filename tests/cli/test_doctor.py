"""``clora doctor``: what works here, what can be done without, and what breaks commands."""

from __future__ import annotations

import json
import shutil
from email import message_from_string
from importlib import metadata

import pytest

from clora_cli.reporting import machine
from clora_cli.reporting.machine import BROKEN, MISSING, OK


@pytest.fixture
def record(monkeypatch):
    """Let clora's own distribution ask for what a test says."""

    def ask(*requirements, python=">=3.10"):
        lines = [f"Requires-Dist: {one}" for one in requirements]
        text = "\n".join(
            ["Metadata-Version: 2.1", "Name: x", f"Requires-Python: {python}", *lines, "Provides-Extra: more"]
        )
        monkeypatch.setattr(machine.metadata, "metadata", lambda name: message_from_string(text))

    return ask


def states(clora):
    result = clora("doctor", "--json")
    told = json.loads(result.out)
    return result, {check["about"]: check for check in told["checks"]}, told


def test_a_machine_on_which_the_tests_run_works(clora, monkeypatch):
    monkeypatch.delenv("CLORA_DATA", raising=False)
    result, checks, told = states(clora)
    assert (result.code, told["works"], told["schema"]) == (0, True, "clora.doctor/1")
    assert {"python", "libraries", "pytorch", "memory", "disk", "bundled model"} <= {
        name for name, check in checks.items() if check["state"] == OK
    }
    assert checks["data"]["state"] == MISSING and "CLORA_DATA" in checks["data"]["mend"]
    assert told["versions"]["torch"] == metadata.version("torch")
    assert clora("doctor", "-q").out == "0\n"
    table = clora("doctor").out
    assert all(f" {name} " in table for name in checks) and "-> " in table


@pytest.mark.parametrize(
    ("requirement", "told"),
    [("no-such-library>=1", "no no-such-library"), ("torch>=99", "is not >=99")],
)
def test_a_library_that_lacks_or_is_too_old_ends_with_one_and_names_it(clora, record, requirement, told):
    record("numpy>=1", requirement)
    result, checks, _ = states(clora)
    assert (result.code, result.error) == (1, "machine-lacks-needed")
    assert checks["libraries"]["state"] == BROKEN and told in checks["libraries"]["told"] and told in result.err


def test_an_extra_that_is_not_there_can_be_done_without(clora, record):
    record("numpy>=1", 'no-such-library>=1; extra == "more"')
    result, checks, _ = states(clora)
    assert result.code == 0
    assert checks["extra more"]["state"] == MISSING and "clora-cli[more]" in checks["extra more"]["mend"]


def test_a_python_beyond_the_range_is_broken(clora, record):
    record("numpy>=1", python=">=9")
    assert states(clora)[1]["python"]["state"] == BROKEN


def test_a_damaged_bundled_model_is_told_and_the_rest_is_looked_at_all_the_same(clora, tmp_path, monkeypatch):
    from clora_cli.model import base_model

    shutil.copytree(base_model.MODEL_PATH, tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").write_bytes(b"cut")
    monkeypatch.setattr(base_model, "MODEL_PATH", tmp_path / "model")
    result, checks, _ = states(clora)
    assert result.code == 1 and checks["bundled model"]["state"] == BROKEN
    assert list(checks)[-1] == "completion"


def test_known_tasks_under_the_data_folder_are_counted(clora, tmp_path, monkeypatch):
    folder = tmp_path / "data" / "CL_Benchmark" / "NLI" / "MNLI"
    folder.mkdir(parents=True)
    (folder / "train.json").write_text("{}")
    monkeypatch.setenv("CLORA_DATA", str(tmp_path / "data"))
    assert "1 of" in states(clora)[1]["data"]["told"]


@pytest.mark.parametrize(("shell", "state"), [("/bin/bash", OK), ("/bin/zsh", MISSING), ("/bin/other", MISSING)])
def test_completion_is_looked_for_where_it_is_installed_to(clora, tmp_path, monkeypatch, shell, state):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SHELL", shell)
    (tmp_path / ".bash_completions").mkdir()
    (tmp_path / ".bash_completions" / "clora.sh").touch()
    assert states(clora)[1]["completion"]["state"] == state


def test_a_library_that_does_not_import_is_broken_and_the_reason_is_told(clora, monkeypatch):
    def refuse(name):
        raise ImportError(f"safetensors>=0.8 is required,\n{name} says")

    monkeypatch.setattr(machine, "import_module", refuse)
    result, checks, _ = states(clora)
    assert (result.code, checks["imports"]["state"]) == (1, BROKEN)
    assert "safetensors>=0.8 is required, torch says" in result.err
