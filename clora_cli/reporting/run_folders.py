"""What a path says about the run it belongs to: ``<root>/<name>/seed-<n>/…``, the layout of ``clora run``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from clora_cli.base.legible import legible

__all__ = ["NO_RUN_FOLDER", "RunFolder", "run_folder"]

_SEED = re.compile(r"seed-([0-9]{1,18})")


@dataclass(frozen=True)
class RunFolder:
    """The folder of one run.

    Attributes:
        root: The folder that holds the runs; ``""`` if the path does not say.
        name: The run's name there, a method or a variant of one; ``""`` if the path does not say.
        seed: Its seed; None if the path does not say.
    """

    root: str
    name: str
    seed: int | None


NO_RUN_FOLDER = RunFolder("", "", None)


def run_folder(path: str | Path) -> RunFolder:
    """Return the run folder that holds a path; the innermost one if they are nested.

    Example:
        >>> run_folder("out/order1/n-lora/seed-7/scores/3.json")
        RunFolder(root='out/order1', name='n-lora', seed=7)
    """
    parts = Path(path).parts
    for index in range(len(parts) - 1, 0, -1):
        if match := _SEED.fullmatch(parts[index]):
            root = legible(str(Path(*parts[: index - 1])))
            return RunFolder(root, legible(parts[index - 1]), int(match[1]))
    return NO_RUN_FOLDER
