"""What is published is whole: the source distribution has what its tests need, the wheel all that the package is made of."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
BESIDE = ("tests", "docs", "examples", "benchmarks", "completions", "pretraining", ".ci", ".github")
ALONE = (
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "LICENSE",
    "Makefile",
    "Dockerfile",
    "action.yml",
    "constraints.txt",
)
_SAFELY: dict[str, Any] = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}  # not in the first 3.11
NOT_PUBLISHED = shutil.ignore_patterns("__pycache__", "*.pyc", "*.egg-info", ".*_cache")
BUILD = "import sys; from setuptools import build_meta; print(getattr(build_meta, sys.argv[1])(sys.argv[2]))"


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def build(source: Path, kind: str, out: Path) -> Path:
    """Build offline, with the build back end that is installed here."""
    command = [sys.executable, "-c", BUILD, kind, str(out)]
    done = subprocess.run(command, cwd=source, check=True, capture_output=True, text=True, timeout=300)
    return out / done.stdout.split()[-1]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the repository's files, without what tools leave in it."""
    pytest.importorskip("setuptools")
    folder = tmp_path_factory.mktemp("source") / "clora"
    for name in ("clora_cli", *BESIDE):
        shutil.copytree(ROOT / name, folder / name, ignore=NOT_PUBLISHED)
    for name in (*ALONE, "pyproject.toml", "MANIFEST.in", ".dockerignore", ".gitignore"):
        shutil.copy(ROOT / name, folder)
    return folder


@pytest.fixture(scope="module")
def unpacked(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is in the source distribution."""
    before, folder = files(source), tmp_path_factory.mktemp("unpacked")
    with tarfile.open(build(source, "build_sdist", folder)) as archive:
        archive.extractall(folder, **_SAFELY)
    (inner,) = (path for path in folder.iterdir() if path.is_dir())
    (inner / "before").write_text("\n".join(sorted(before)), encoding="utf-8")
    return inner


def test_the_source_distribution_has_every_file_of_the_repository(unpacked: Path) -> None:
    before = set((unpacked / "before").read_text(encoding="utf-8").splitlines())
    assert before - files(unpacked) == set()
    assert {"tests/support.py", "tests/conftest.py", "tests/artifacts/0.1.0/checksums.json"} <= before


def test_a_wheel_made_of_it_has_every_file_of_the_package_and_the_program(
    source: Path, unpacked: Path, tmp_path: Path
) -> None:
    with zipfile.ZipFile(build(unpacked, "build_wheel", tmp_path)) as wheel:
        names = set(wheel.namelist())
        (record,) = (name for name in names if name.endswith("entry_points.txt"))
        assert "clora = clora_cli.__main__:main" in wheel.read(record).decode()
        (about,) = (name for name in names if name.endswith("/METADATA"))
        told = wheel.read(about).decode()
    assert {f"clora_cli/{name}" for name in files(source / "clora_cli")} - names == set()
    assert not [name for name in names if name.startswith(("tests/", "docs/", "benchmarks/"))]
    for minor in range(10, 15):
        assert f"Classifier: Programming Language :: Python :: 3.{minor}" in told
