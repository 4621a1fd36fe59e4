"""Find, check and write the checkpoints of an unfinished run (layer L3; docs/package-format.md).

A checkpoint is a folder of safetensors and JSON with a checksum of each file, written whole like any other. Nothing in it is
pickled, and a file whose checksum differs is never used.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

from clora_cli.base.errors import ArtifactError, BusyError, CloraError
from clora_cli.base.files import discard, new_folder, read_json, sha256, to_json
from clora_cli.base.progress import Progress
from clora_cli.processes.ranks import is_main_process

__all__ = [
    "ADAPTER",
    "OPTIMIZER",
    "RANDOM",
    "RECORD",
    "STATE",
    "TRAINER",
    "has_checkpoints",
    "last_checkpoint",
    "new_checkpoint",
    "start_anew",
]

SCHEMA = "clora.checkpoint/1"
RECORD = "checkpoint.json"
ADAPTER = "adapter.safetensors"
OPTIMIZER = "optimizer.safetensors"
RANDOM = "random.safetensors"
STATE = "state.json"
TRAINER = "trainer_state.json"  # the Trainer's own
_NEEDED = {ADAPTER, OPTIMIZER, RANDOM, STATE, TRAINER}
_KEPT = 2  # so that one is left if the last is damaged
_NAME = re.compile(r"checkpoint-(\d{1,18})")


def has_checkpoints(work: Path) -> bool:
    """Tell whether an unfinished run's folder has checkpoints, damaged ones included."""
    return bool(_checkpoints(work))


def start_anew(work: Path) -> str:
    """Return the part of a message that says how to start anew."""
    return f"start anew with --force, or remove {work}"


def last_checkpoint(work: Path, progress: Progress) -> Path | None:
    """Return the last checkpoint that is whole; None if there is none at all. Damaged ones after it are removed.

    Args:
        work: An unfinished run's folder.
        progress: Told of checkpoints that are damaged.

    Raises:
        ArtifactError: If there are checkpoints and none can be used.
    """
    damaged: dict[Path, str] = {}
    for path in _checkpoints(work):
        if not (reason := _damage(path)):
            for other, why in damaged.items():
                progress.warn(f"{other} is damaged ({why}); continuing from {path.name}")
                if is_main_process():
                    discard(other)
            return path
        damaged[path] = reason
    if damaged:
        path, reason = next(iter(damaged.items()))
        raise ArtifactError(
            f"no checkpoint in {work} can be used ({path.name}: {reason}); {start_anew(work)}",
            code="no-usable-checkpoint",
        )
    return None


@contextlib.contextmanager
def new_checkpoint(folder: Path) -> Iterator[Path]:
    """Give a folder to fill, then make it a checkpoint; keep only the last older one.

    Raises:
        CloraError: If it cannot be written.
    """
    try:
        with new_folder(folder) as draft:
            yield draft
            files = {file.name: sha256(file) for file in sorted(draft.iterdir())}
            (draft / RECORD).write_text(to_json({"schema": SCHEMA, "files": files}), encoding="utf-8")
    except BusyError:
        raise
    except CloraError as error:
        reason = str(error).partition("; nothing was changed")[0]
        raise CloraError(f"{reason}; free space, then continue with --resume", code=error.code) from error
    for old in _checkpoints(folder.parent)[_KEPT:]:
        discard(old)


def _checkpoints(work: Path) -> list[Path]:
    """Return the checkpoints' folders, the last one first."""
    if not work.is_dir():
        return []
    found = [(int(name[1]), path) for path in work.iterdir() if (name := _NAME.fullmatch(path.name))]
    return [path for _, path in sorted(found, reverse=True)]


def _damage(path: Path) -> str:
    """Return what is wrong with a checkpoint; empty if it is whole."""
    if not (path / RECORD).is_file():
        return "pickled, as clora 0.1.0 wrote it" if (path / "optimizer.pt").exists() else f"no {RECORD}"
    try:
        record = read_json(path / RECORD, "record")
    except ArtifactError:
        return f"{RECORD} cannot be read"
    files = record.get("files")
    if record.get("schema") != SCHEMA:
        return f"another format than {SCHEMA}"
    if not isinstance(files, dict) or not set(files) >= _NEEDED or any(Path(name).name != name for name in files):
        return f"{RECORD} is not what was written"
    return next((reason for name, digest in files.items() if (reason := _odd(path / name, digest))), "")


def _odd(file: Path, digest: object) -> str:
    if not file.is_file():
        return f"{file.name} is missing"
    try:
        return "" if sha256(file) == digest else f"{file.name} is not the file that was written"
    except OSError as error:
        return f"{file.name} cannot be read: {error.strerror or error}"
