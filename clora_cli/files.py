"""Whole or not there: atomic files and folders, checksums, JSON (layer L0)."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from clora_cli.errors import ArtifactError, CloraError
from clora_cli.intake import open_regular, parse_json, read_text, real_path, reason

__all__ = ["differences", "new_folder", "read_json", "sha256", "to_json", "write_bytes", "write_text", "writing"]


def sha256(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with open_regular(path) as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def to_json(value: Any) -> str:
    """Serialise to indented JSON with sorted keys and a final newline: equal values give equal bytes."""
    return json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"


def read_json(path: Path, what: str) -> dict[str, Any]:
    """Read a JSON object, strictly as ``parse_json`` does.

    Args:
        path: The file.
        what: What the file is, for the message, such as ``"manifest"``.

    Raises:
        ArtifactError: If it is missing, no regular file, unreadable, not JSON or not an object.
    """
    try:
        value = parse_json(read_text(path))
    except FileNotFoundError:
        raise ArtifactError(f"{what} {path} does not exist") from None
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{what} {path} is damaged ({reason(error)}); restore it or make it again") from error
    if not isinstance(value, dict):
        raise ArtifactError(f"{what} {path} is damaged (not a JSON object); restore it or make it again")
    return value


def differences(recipe: Mapping[str, Any], manifest: Mapping[str, Any], prefix: str = "") -> str:
    """Name what differs between a recipe and a manifest, as ``training.lr 0.001 -> 0.002``, at most three entries."""
    found: list[str] = []
    for key, value in recipe.items():
        other = manifest.get(key)
        if isinstance(value, Mapping) and isinstance(other, Mapping):
            if inner := differences(value, other, f"{prefix}{key}."):
                found.append(inner)
        elif value != other:
            found.append(
                f"{prefix}{key}"
                if isinstance(value, (list, Mapping)) or other is None
                else f"{prefix}{key} {other} -> {value}"
            )
    return ", ".join(found[:3])


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn a failed write below ``path`` into one line.

    Raises:
        CloraError: If the disk is full, the folder is not writable, or another operating-system error occurs.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise CloraError(
            f"cannot write {path}: {reason}; nothing was changed, free space or choose another place"
        ) from error


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically, as ``write_bytes`` does."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically: readers see the old content or the new, never a part.

    Raises:
        CloraError: If the file cannot be written, or the path is there and no file; what was there stays.
    """
    if path.exists() and not path.is_file():
        raise CloraError(f"cannot write {path}: it exists and is no regular file; choose another name")
    if path.is_symlink():  # it stays one: what it leads to is replaced
        path = real_path(path)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".clora-{path.name}-")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
            Path(temporary).chmod(0o644)
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise


@contextlib.contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """Give a temporary sibling folder to fill, then rename it to ``target``: the folder is whole or not there.

    An existing target is replaced only once the new folder is complete. On any exception the temporary folder
    goes and the target stays as it was.

    Raises:
        CloraError: If the folder cannot be written.
    """
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".clora-{target.name}-"))
        try:
            yield temporary
            temporary.chmod(0o755)
            _swap(temporary, target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _swap(source: Path, target: Path) -> None:
    if not target.exists():
        source.rename(target)
        return
    # A folder cannot be replaced in one step on POSIX: the old one is moved aside and back if the rename fails.
    aside = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".clora-{target.name}-old-"))
    try:
        target.rename(aside / target.name)
        try:
            source.rename(target)
        except OSError:
            (aside / target.name).rename(target)
            raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)
