from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
from routed import write_routable
from served import running

from clora_cli.serving.service import Service


@pytest.fixture
def made(tmp_path, backbone, tasks):
    """Make a package of two adapters that can be routed among, and return it with its base model."""

    def make(family: str = "llama", **how: Any) -> tuple[Path, Any]:
        base = backbone(family)
        names = [str(tasks[name]) for name in ("first", "second")]
        return write_routable(tmp_path / "adapters", base, names, second="full", **how), base

    return make


@pytest.fixture
def serve():
    """Serve a package in threads of this process; entries of the log are added to ``log``."""
    with contextlib.ExitStack() as stack:

        def start(package: Path, log: list[Any] | None = None, **options: Any) -> tuple[str, Service]:
            return stack.enter_context(running(package, [] if log is None else log, **options))

        yield start
