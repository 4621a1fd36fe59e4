"""The completion scripts are those that the command line prints, and they work in a shell, without heavy imports."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from clora_cli.base import registry
from clora_cli.data import list_tasks

ROOT = Path(__file__).parents[1]
HEAVY = ("torch", "transformers", "peft", "datasets", "pandas", "numpy", "matplotlib")
_COMMAND = """#!{python}
import sys
from clora_cli.cli import main
try:
    main()
finally:
    heavy = sorted(set({heavy!r}) & set(sys.modules))
    if heavy:
        sys.stderr.write("imported " + " ".join(heavy))
"""


@pytest.fixture
def environment(tmp_path):
    """A PATH whose first ``clora`` tells on stderr which heavy libraries it imported."""
    command = tmp_path / "clora"
    command.write_text(_COMMAND.format(python=sys.executable, heavy=HEAVY), encoding="utf-8")
    command.chmod(0o755)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("CLORA_", "COV_"))}
    path = os.pathsep.join([str(tmp_path), os.environ["PATH"]])
    return {**kept, "PATH": path, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}


def complete(words, environment):
    """Source the bash script and press the tab key after the last word."""
    script = f"""
source {ROOT}/completions/clora.bash
COMP_WORDS=({" ".join(f"'{word}'" for word in words)}) COMP_CWORD={len(words) - 1}
_clora_completion clora
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    result = subprocess.run(
        ["bash", "-c", script], env=environment, capture_output=True, text=True, check=True, timeout=60
    )
    assert result.stderr == ""
    return [line for line in result.stdout.splitlines() if line]


def test_bash_completes_methods_also_after_a_plus(environment):
    assert complete(["clora", "train-task", "--method", ""], environment) == list(registry.names("methods"))
    assert complete(["clora", "train-task", "--method", "o-lora+n"], environment) == ["o-lora+n-lora"]


def test_bash_completes_task_names(environment):
    topics = [info.name for info in list_tasks() if info.name.startswith("topics-")]
    assert len(topics) > 1
    assert complete(["clora", "train-task", "--data", "topics-"], environment) == topics
    assert complete(["clora", "eval", "adapters", "-d", "topics-"], environment) == topics


def test_bash_completes_commands_and_options(environment):
    assert complete(["clora", "tr"], environment) == ["train-task", "trim"]
    assert "--max-new-tokens" in complete(["clora", "eval", "--max-"], environment)


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_the_other_shells_are_answered_too(environment, shell):
    asked = {"_CLORA_COMPLETE": f"complete_{shell}", "_TYPER_COMPLETE_ARGS": "clora train-task --method seq"}
    asked["_TYPER_COMPLETE_FISH_ACTION"] = "get-args"
    result = subprocess.run(
        ["clora"], env={**environment, **asked}, capture_output=True, text=True, check=False, timeout=60
    )
    assert "seq-lora" in result.stdout
    assert result.stderr == ""


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_script_is_valid_in_its_shell(shell):
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    subprocess.run([shell, "-n", ROOT / "completions" / f"clora.{shell}"], check=True, timeout=60)
