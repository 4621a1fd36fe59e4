"""The examples: the scripts are valid shell, and the Python one runs."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from clora_cli.cli import app
from clora_cli.data import list_tasks

EXAMPLES = Path(__file__).parents[1] / "examples"
SCRIPTS = sorted(EXAMPLES.glob("*.sh"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_script_is_valid_and_says_what_it_is(script):
    subprocess.run(["bash", "-n", script], check=True, timeout=60)
    lines = script.read_text(encoding="utf-8").splitlines()
    assert lines[0] == "#!/usr/bin/env bash"
    assert lines[1].startswith("# ")
    assert "set -euo pipefail" in lines
    assert os.access(script, os.X_OK)


@pytest.mark.parametrize("name", ["demo.sh", "demo-llm.sh"])
def test_the_demos_run_on_bundled_tasks(name):
    text = (EXAMPLES / name).read_text(encoding="utf-8")
    tasks = re.search(r"^tasks=\((.*)\)$", text, re.MULTILINE)[1].split()
    bundled = {info.name for info in list_tasks() if info.where == "bundled"}
    assert len(tasks) > 1
    assert set(tasks) <= bundled


def test_a_script_without_what_it_needs_says_so():
    clean = {"PATH": os.environ["PATH"], "HOME": "/"}
    for arguments in ([], ["model"]):
        command = ["bash", EXAMPLES / "compare-methods.sh", *arguments]
        result = subprocess.run(command, env=clean, capture_output=True, text=True, check=False, timeout=60)
        assert result.returncode != 0
        assert ("CLORA_DATA" if arguments else "give a model") in result.stderr


def test_adapters_travel_between_clora_and_peft(tmp_path, monkeypatch, capsys):
    example = runpy.run_path(str(EXAMPLES / "peft-interop.py"))

    def clora(*words):  # in this process: two more would import PyTorch again
        result = CliRunner().invoke(app, [*words, "--quiet", "--device", "cpu"], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.stdout.strip()

    main = example["main"]
    monkeypatch.setitem(main.__globals__, "clora", clora)
    monkeypatch.setattr(sys, "argv", ["peft-interop.py", str(tmp_path)])
    main()
    told = capsys.readouterr().out
    assert "PEFT loads" in told
    assert re.search(r"clora scores .*from-peft: \d", told)


def test_adapters_of_plain_peft_become_one_model_that_finds_its_inputs(tmp_path, monkeypatch, capsys):
    example = runpy.run_path(str(EXAMPLES / "plain-peft.py"))
    less = {"stat-features": ["--limit", "20", "--device", "cpu"], "eval": ["--test-rows", "3", "--device", "cpu"]}

    def clora(*words):  # in this process, and on fewer rows
        result = CliRunner().invoke(app, [*words, *less.get(words[0], [])], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.stdout.strip()

    main = example["main"]
    monkeypatch.setitem(main.__globals__, "clora", clora)
    monkeypatch.setattr(sys, "argv", ["plain-peft.py", str(tmp_path), "2"])
    main()
    told = capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / "expanded.pkg").iterdir()) == ["desk", "mood"]
    assert not list(tmp_path.rglob("clora.json"))
    assert re.search(r"\| 2 mood +\| +[\d.]+ \| \*\*[\d.]+\*\* \|", told)
