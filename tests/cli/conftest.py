from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from clora_cli.base import plugin_sources
from clora_cli.base.errors import CloraError


@dataclass(frozen=True)
class Result:
    """What a command line left behind: the exit status, its output, and the code of the error that it ended with."""

    code: int
    out: str
    err: str
    error: str = ""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in, and no plug-in file that an earlier test named."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plugin_sources, "_admitted", {})
    return tmp_path


@pytest.fixture
def clora(here: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    """Run a command line in this process, as ``main`` runs it."""

    def run(*arguments: object) -> Result:
        from clora_cli import cli

        codes = [""]
        carry_out = cli._carried_out

        def carried_out() -> int:
            try:
                return carry_out()
            except CloraError as error:
                codes.append(error.code)
                raise

        monkeypatch.setattr(sys, "argv", ["clora", *map(str, arguments)])
        capfd.readouterr()
        with monkeypatch.context() as patched, pytest.raises(SystemExit) as info:
            patched.setattr(cli, "_carried_out", carried_out)
            cli.main()
        captured = capfd.readouterr()
        return Result(int(info.value.code or 0), captured.out, captured.err, codes[-1])

    return run


@pytest.fixture
def process(here: Path) -> Callable[..., Result]:
    """Run a command line as a process of its own."""

    def run(*command: object, **environment: str) -> Result:
        result = subprocess.run(
            [sys.executable, *map(str, command)],
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
            env={**os.environ, **environment},
        )
        return Result(result.returncode, result.stdout, result.stderr)

    return run


@pytest.fixture
def package(here: Path, backbone: Callable[..., object], tasks: dict[str, Path]) -> Path:
    """Two adapters whose tasks are the files of the fixtures."""
    from support import data_of, write_random_adapter

    base = backbone("llama")
    for stage, task in enumerate(("first", "second"), start=1):
        manifest = {"data": data_of(str(tasks[task]), [])}
        write_random_adapter(here / "adapters" / task, base, stage=stage, manifest=manifest)
    return here / "adapters"
