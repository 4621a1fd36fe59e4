"""What each step cost: one line of JSON a step in ``cost.jsonl`` (layer L3).

Times do not belong into adapter folders, which are equal byte for byte however long they took.
"""

from __future__ import annotations

import fcntl
import json
import os
import struct
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from clora_cli.errors import ArtifactError
from clora_cli.files import writing

__all__ = ["COSTS", "Cost", "adapter_size", "append_cost", "read_costs"]

COSTS = "cost.jsonl"
SCHEMA = "clora.cost/1"
_LONGEST = 1 << 16  # bytes: many times a line


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What one step cost.

    Attributes:
        method: The method's label.
        seed: The seed.
        task: The task's name.
        stage: Its place in the order, from 1.
        step: ``train``, ``stat-features`` or ``eval``.
        seconds: By the clock, the start of the command included.
        peak_memory_bytes: The most main memory that its process held; of several processes the largest.
        peak_device_bytes: The most memory of an accelerator that its tensors held; None without one.
        trainable_parameters: Numbers in the adapter; None for an evaluation.
        adapter_bytes: Bytes of the adapter's tensor files; None for an evaluation.
        resumed: Whether it continued what an interrupted one had begun, whose time is not in ``seconds``.
    """

    method: str
    seed: int
    task: str
    stage: int
    step: str
    seconds: float
    peak_memory_bytes: int
    peak_device_bytes: int | None = None
    trainable_parameters: int | None = None
    adapter_bytes: int | None = None
    resumed: bool = False


def append_cost(folder: Path, cost: Cost) -> None:
    """Add a line to a folder's file, in one write; a last line that somebody was kept from finishing is removed first.

    Raises:
        CloraError: If the file cannot be written.
    """
    path = folder / COSTS
    line = json.dumps({"schema": SCHEMA, **asdict(cost)}, sort_keys=True) + "\n"
    with writing(path):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)  # other parts of the recipe may run beside this one
            size = os.fstat(descriptor).st_size
            tail = os.pread(descriptor, _LONGEST, max(0, size - _LONGEST))
            os.ftruncate(descriptor, size - len(tail) + tail.rfind(b"\n") + 1)
            os.write(descriptor, line.encode())
        finally:
            os.close(descriptor)


def read_costs(folder: Path) -> list[Cost]:
    """Read a folder's costs, the last line of each step; lines that are broken or not known are left out."""
    found: dict[tuple[Any, ...], Cost] = {}
    for entry in _lines(folder / COSTS):
        fields = {name: value for name, value in entry.items() if name in Cost.__dataclass_fields__}
        try:
            cost = Cost(**fields)
        except TypeError:
            continue
        found[cost.method, cost.seed, cost.stage, cost.task, cost.step] = cost
    return list(found.values())


def adapter_size(folder: Path) -> tuple[int, int]:
    """Return how many numbers an adapter's weights are, and how many bytes its tensor files.

    Raises:
        ArtifactError: If its weights cannot be read.
    """
    weights = folder / "adapter_model.safetensors"
    try:
        with weights.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(length))
        shapes = [entry["shape"] for name, entry in header.items() if name != "__metadata__"]
        size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    except (OSError, ValueError, KeyError, struct.error) as error:
        raise ArtifactError(f"adapter {folder} is damaged ({error}); remove it and run again") from error
    return sum(_product(shape) for shape in shapes), size


def _product(shape: list[int]) -> int:
    total = 1
    for side in shape:
        total *= side
    return total


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        return
    for line in lines:
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict) and entry.get("schema") == SCHEMA:
            yield entry
