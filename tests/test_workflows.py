"""The workflow that tests both ends of what is allowed: what it names is there, and its ends are those of pyproject.toml."""

from __future__ import annotations

import itertools
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

tomllib = pytest.importorskip("tomllib", reason="Python 3.10 reads no TOML")

ROOT = Path(__file__).resolve().parent.parent
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
WORKFLOW: dict[str, Any] = yaml.safe_load((ROOT / ".github" / "workflows" / "tests.yml").read_text(encoding="utf-8"))
PYTHONS = [line.rsplit(" ", 1)[1] for line in PROJECT["classifiers"] if re.fullmatch(r".* :: Python :: 3\.\d+", line)]
COMMANDS = {
    name: [shlex.split(step["run"]) for step in job["steps"] if "run" in step] for name, job in WORKFLOW["jobs"].items()
}


def test_it_tests_the_oldest_python_with_the_oldest_libraries_and_the_newest_with_the_newest():
    oldest, newest = sorted(PYTHONS, key=Version)[0], sorted(PYTHONS, key=Version)[-1]
    entries = WORKFLOW["jobs"]["tests"]["strategy"]["matrix"]["include"]
    ends = [(entry["python"], entry["libraries"], entry["resolution"]) for entry in entries]
    assert ends == [(oldest, "oldest", "lowest-direct"), (newest, "newest", "highest")]
    assert SpecifierSet(PROJECT["requires-python"]) == SpecifierSet(f">={oldest}")


def test_every_target_and_extra_that_it_names_is_there():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    words = [command for commands in COMMANDS.values() for command in commands]
    assert {command[1] for command in words if command[0] == "make"} <= targets
    extras = {after for command in words for word, after in itertools.pairwise(command) if word == "--extra"}
    assert extras == {"test"} <= PROJECT["optional-dependencies"].keys()
    assert not WORKFLOW["jobs"].keys() - {"tests", "site", "version"}


def test_every_job_ends_by_itself_and_may_only_read():
    assert WORKFLOW["permissions"] == {"contents": "read"}
    assert all(job["timeout-minutes"] <= 40 for job in WORKFLOW["jobs"].values())


@pytest.mark.parametrize("python", PYTHONS)
def test_one_pinned_version_of_each_library_fits_every_python(python):
    lines = [line.partition("#")[0].strip() for line in (ROOT / "constraints.txt").read_text("utf-8").splitlines()]
    pins = [Requirement(line) for line in lines if line]
    asked = PROJECT["dependencies"] + [one for extra in PROJECT["optional-dependencies"].values() for one in extra]
    for text in asked:
        wanted = Requirement(text)
        fitting = [pin for pin in pins if pin.name.lower() == wanted.name.lower() and _applies(pin, python)]
        if wanted.name not in ("clora-cli", "bitsandbytes"):  # itself; for CUDA alone
            (pin,) = fitting
            (exact,) = pin.specifier
            assert wanted.specifier.contains(exact.version), text


def _applies(pin: Requirement, python: str) -> bool:
    return pin.marker is None or pin.marker.evaluate({"python_version": python})
