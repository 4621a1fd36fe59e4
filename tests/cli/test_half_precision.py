"""Every command that runs a base model says once that this processor is slow in half precision."""

from __future__ import annotations

import pytest
from support import Signals

from clora_cli.model import half_precision
from clora_cli.options import ServeOptions
from clora_cli.reporting.machine import MISSING, OK, look
from clora_cli.serving.service import Service


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("command", ["train-task", "eval", "route", "stat-features", "synthesize"])
def test_a_command_says_it_once(clora, package, tasks, model_folder, monkeypatch, command, dtype):
    monkeypatch.setattr(half_precision, "computes_in", lambda asked: asked == "float32")
    model = ("--model", model_folder("llama"), "--dtype", dtype, "--device", "cpu")
    if command == "route":
        assert clora("stat-features", package, "--model", model_folder("llama"), "--limit", 12).code == 0
    chosen = {
        "train-task": ("train-task", "--data", tasks["third"], "--package", package, "--max-steps", 1),
        "eval": ("eval", package, "--data", tasks["first"], "--test-rows", 2, "--combine", "sum"),
        "route": ("route", package, "--data", tasks["first"], "--limit", 2),
        "stat-features": ("stat-features", package, "--limit", 12),
        "synthesize": ("synthesize", package, "--task", "first", "--rows", 1, "-o", "made.jsonl"),
    }[command]
    result = clora(*chosen, *model)
    assert result.code == 0, result.err
    assert result.err.count("--dtype float32") == (dtype == "bfloat16")


def test_a_server_says_it(package, model_folder, monkeypatch):
    monkeypatch.setattr(half_precision, "computes_in", lambda asked: False)
    told = Signals()
    options = ServeOptions(model=str(model_folder("llama")), device="cpu", dtype="bfloat16")
    Service([package], options, told)
    assert sum("--dtype float32" in said for said in told.warnings) == 1


@pytest.mark.parametrize("there", [True, False])
def test_the_doctor_has_a_line_on_it(monkeypatch, there):
    monkeypatch.setattr("clora_cli.reporting.machine.computes_in", lambda asked: there)
    (check,) = [one for one in look() if one.about == "half precision"]
    assert check.state == (OK if there else MISSING)
    assert ("float32" in check.mend) is not there
