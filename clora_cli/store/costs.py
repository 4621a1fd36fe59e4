"""What each step of a run cost: one line of JSON a step in ``cost.jsonl`` (layer L1; docs/package-format.md).

Times do not belong into adapter folders, which are equal byte for byte however long they took.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from clora_cli.base.errors import ArtifactError
from clora_cli.base.files import writing
from clora_cli.base.intake import parse_json, read_text, reason
from clora_cli.base.records import Check, flag, maybe, name, number, whole, wrong

__all__ = ["COSTS", "SCHEMA", "Cost", "append_cost", "read_costs"]

COSTS = "cost.jsonl"
SCHEMA = "clora.cost/1"
_LONGEST = 1 << 16  # bytes: many times a line
_MEASURED = maybe(whole(most=(1 << 63) - 1))
_WANTED: Mapping[str, Check] = {
    "method": name,
    "task": name,
    "step": name,
    "seed": whole(),
    "stage": whole(),
    "seconds": number(0),
    "peak_memory_bytes?": _MEASURED,
    "peak_device_bytes?": _MEASURED,
    "trainable_parameters?": _MEASURED,
    "adapter_bytes?": _MEASURED,
    "resumed?": flag,
}


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
        peak_memory_bytes: The most main memory that its process held; of several processes the largest; None where
            nobody measured it.
        peak_device_bytes: The most memory of an accelerator that its tensors held; None without one.
        trainable_parameters: Numbers of the adapter that were trained; None for an evaluation.
        adapter_bytes: Bytes of the adapter's tensor files; None for an evaluation.
        resumed: Whether it continued what an interrupted one had begun, whose time is not in ``seconds``.
    """

    method: str
    seed: int
    task: str
    stage: int
    step: str
    seconds: float
    peak_memory_bytes: int | None = None
    peak_device_bytes: int | None = None
    trainable_parameters: int | None = None
    adapter_bytes: int | None = None
    resumed: bool = False


def append_cost(path: Path, cost: Cost) -> None:
    """Add a line to a file, in one write; a last line that somebody was kept from finishing is removed first.

    Raises:
        CloraError: If the file cannot be written.
    """
    line = json.dumps({"schema": SCHEMA, **asdict(cost)}, sort_keys=True) + "\n"
    with writing(path):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)  # other parts of the recipe may run beside this one
            size = os.fstat(descriptor).st_size
            tail = os.pread(descriptor, _LONGEST, max(0, size - _LONGEST))
            os.ftruncate(descriptor, size - len(tail) + tail.rfind(b"\n") + 1)
            with os.fdopen(descriptor, "ab", closefd=False) as file:  # a disk that is nearly full takes a part at first
                file.write(line.encode())
        finally:
            os.close(descriptor)


def read_costs(path: Path) -> list[Cost]:
    """Read a cost file: of a step that was done again the last line counts, and a last line that was cut off does not.

    Raises:
        ArtifactError: If it cannot be read, or a line is no cost.
    """
    try:
        lines = read_text(path).split("\n")[:-1]
    except (OSError, ValueError) as error:
        raise ArtifactError(
            f"cost file {path} cannot be read ({reason(error)}); leave it out", code="path-unreadable"
        ) from error
    costs = [_cost(f"{path}, line {place}", line) for place, line in enumerate(lines, start=1) if line.strip()]
    return list({(cost.method, cost.seed, cost.stage, cost.task, cost.step): cost for cost in costs}.values())


def _cost(where: str, line: str) -> Cost:
    try:
        entry = parse_json(line)
    except ValueError as error:
        raise ArtifactError(
            f"{where}: not JSON ({reason(error)}); remove the line or leave the file out", code="cost-record-damaged"
        ) from error
    if not isinstance(entry, dict) or entry.get("schema") != SCHEMA:
        raise ArtifactError(f"{where}: no schema '{SCHEMA}'; give the {COSTS} of a run", code="not-a-cost-record")
    if odd := wrong(entry, _WANTED):
        raise ArtifactError(f"{where}: {odd} is not what it should be; remove the line", code="cost-record-damaged")
    return Cost(**{field.name: entry[field.name] for field in fields(Cost) if field.name in entry})
