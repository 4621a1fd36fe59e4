"""Recipes from Python (layer L4): each of their steps is a process of its own, whoever asks for it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from clora_cli.api.calls import Event, Listener
from clora_cli.base import errors
from clora_cli.base.errors import CloraError
from clora_cli.base.progress import ADVANCE_LINE

__all__ = ["run"]

_KINDS = {kind.exit_code: kind for kind in (CloraError, errors.OptionError, errors.ArtifactError, errors.MismatchError)}
_KINDS[errors.InterruptedRunError.exit_code] = errors.InterruptedRunError


def run(
    recipe: str | Path,
    *,
    only: Sequence[str] = (),
    seed: Sequence[int] = (),
    jobs: int | str = 1,
    per_device: int | None = None,
    model: str | None = None,
    out: str | Path | None = None,
    progress: Listener | None = None,
) -> Mapping[str, Any]:
    """Run a recipe: a whole order of tasks, with one or several methods and seeds.

    Carried out by the command, in processes of its own; the same call again continues where it stopped.

    Args:
        recipe: A YAML file, or the name of a recipe that comes with clora.
        only: The methods to run, by their labels; all by default.
        seed: Seeds instead of the recipe's.
        jobs: Methods and seeds that run side by side; ``auto`` as for the command.
        per_device: How many of them share a GPU at most; any number by default, one with ``auto``.
        model: Base model instead of the recipe's.
        out: Folder instead of the recipe's.
        progress: Called with each ``Event``, from a thread of its own.

    Returns:
        What the command's ``--json`` prints: ``runs`` with their folders, ``methods`` with their mean scores.

    Raises:
        CloraError: Of the class that the command's exit status stands for, with its last message.
    """
    line = ["run", str(recipe), *(["--only", ",".join(only)] if only else []), "--jobs", str(jobs)]
    line += [word for number in seed for word in ("--seed", str(number))]
    line += ["--per-device", str(per_device)] if per_device is not None else []
    line += [
        word for name, value in (("--model", model), ("--out", out)) if value is not None for word in (name, str(value))
    ]
    command = [sys.executable, "-m", "clora_cli", *line, "--json"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CLORA_RUN_")}
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=environment, **pipes) as process:
        failed: deque[str] = deque(maxlen=1)
        reader = threading.Thread(target=_pass_on, args=(process.stderr, progress, failed))
        reader.start()
        text = process.stdout.read() if process.stdout else ""
        reader.join()
    if process.returncode:
        told = failed[0] if failed else f"clora {' '.join(line)} ended with status {process.returncode}"
        raise _KINDS.get(process.returncode, CloraError)(told, code="run-failed")
    return dict(json.loads(text))


def _pass_on(lines: Iterable[str] | IO[str] | None, progress: Listener | None, failed: deque[str]) -> None:
    for line in map(str.rstrip, lines or ()):
        if line.startswith("error: "):
            failed.append(line.removeprefix("error: "))
        elif progress is not None:
            progress(_event(line))


def _event(line: str) -> Event:
    if line.startswith("warning: "):
        return Event("warning", line.removeprefix("warning: "))
    if match := ADVANCE_LINE.fullmatch(line):
        return Event("progress", match["title"], int(match["done"]), int(match["total"]), match["status"] or "")
    return Event("note", line)
