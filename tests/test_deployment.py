"""The GitHub Action and the Dockerfile, run as far as a machine without either can."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml
from support import write_random_adapter

from clora_cli.options import ServeOptions

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def step():
    """The step of the action that scores."""
    action = yaml.safe_load((ROOT / "action.yml").read_text())
    assert action["runs"]["using"] == "composite"
    steps = action["runs"]["steps"]
    assert all("shell" in one for one in steps if "run" in one)
    named = set(re.findall(r"inputs\.([\w-]+)", str(steps)))
    assert named == action["inputs"].keys()
    return next(one for one in steps if one.get("id") == "eval")


def run(step, folder, **inputs):
    """Run the script as a workflow's machine does; return its status, its errors and its outputs."""
    tools = folder / "tools"
    tools.mkdir(exist_ok=True)
    (tools / "clora").write_text(f'#!/bin/sh\nexec {sys.executable} -m clora_cli "$@"\n')
    (tools / "clora").chmod(0o755)
    given = {name: inputs.get(name, "") for name in step["env"]} | {"OUT": "out"}
    environment = {
        **os.environ,
        **given,
        "PATH": f"{tools}:{os.environ['PATH']}",
        "GITHUB_OUTPUT": str(folder / "outputs"),
    }
    environment["PYTHONPATH"] = str(ROOT)
    command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]]
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=300
    )
    lines = (folder / "outputs").read_text().split() if (folder / "outputs").exists() else []
    return done.returncode, done.stderr, dict(line.split("=", 1) for line in lines)


def test_the_action_scores_fails_on_a_broken_limit_and_leaves_its_reports(step, backbone, tasks, tmp_path):
    assert not re.search(r"\$\{\{", step["run"]), "inputs within a script would be run"
    base = backbone("llama")
    write_random_adapter(tmp_path / "my adapters" / "first", base, stage=1)
    inputs = {"PACKAGE": "my adapters", "MODEL": str(base.reference.path), "DATA": str(tasks["first"])}
    inputs |= {"FAIL_UNDER": "101", "ARGUMENTS": "--device cpu --test-rows '4'"}
    code, errors, outputs = run(step, tmp_path, **inputs)
    assert (code, "::error title=clora eval::the mean score" in errors) == (5, True), errors
    assert outputs["scores"] == "out/scores.json"
    assert (tmp_path / "out" / "junit.xml").is_file()
    assert 0 <= float(outputs["mean"]) <= 100


def test_what_the_dockerfile_copies_is_a_whole_package(tmp_path):
    lines = re.sub(r"\\\n\s*", "", (ROOT / "Dockerfile").read_text()).splitlines()
    words = [line.split() for line in lines if line and not line.startswith("#")]
    copied = [source for each in words if each[0] == "COPY" for source in each[1:-1]]
    allowed = {line.removeprefix("!") for line in (ROOT / ".dockerignore").read_text().split() if line.startswith("!")}
    assert set(copied) == allowed
    for source in copied:
        path = ROOT / source
        shutil.copytree(path, tmp_path / source) if path.is_dir() else shutil.copy(path, tmp_path)
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", "out", "."]
    pytest.importorskip("setuptools")
    subprocess.run(build, cwd=tmp_path, check=True, capture_output=True, timeout=300)
    (wheel,) = (tmp_path / "out").glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {"clora_cli/nano/model/config.json", "clora_cli/presenting/report.html.jinja"} <= names
    assert words[[each[0] for each in words].index("ENTRYPOINT")][1:] == ['["clora"]']
    assert ["USER", "clora"] in words


def test_the_image_holds_every_extra_that_a_cpu_can_use_at_the_versions_that_are_tested():
    tomllib = pytest.importorskip("tomllib", reason="Python 3.10 reads no TOML")
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    wanted = extras.keys() - {"docs", "test", "quantize"}  # bitsandbytes is for GPUs
    dockerfile = (ROOT / "Dockerfile").read_text()
    assert set(re.search(r'-c constraints\.txt "\.\[(.*)\]"', dockerfile)[1].split(",")) == wanted
    pinned = {line.partition("==")[0] for line in (ROOT / "constraints.txt").read_text().splitlines()}
    assert {re.match(r"[\w-]+", need)[0] for name in wanted for need in extras[name]} <= pinned
    assert f"EXPOSE {ServeOptions.port}\n" in dockerfile
