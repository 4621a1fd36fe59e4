"""Atomic files and folders that survive a power cut, checksums, JSON (layer L0)."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from clora_cli.base.durable import make_folder, persist, publish
from clora_cli.base.errors import ArtifactError, CloraError
from clora_cli.base.intake import LONGEST_TEXT, open_regular, parse_json, read_text, real_path, reason
from clora_cli.processes.leftovers import sweep
from clora_cli.processes.locks import confirm
from clora_cli.processes.owners import owned_name

__all__ = [
    "damage",
    "differences",
    "discard",
    "new_folder",
    "read_json",
    "sha256",
    "stand_in",
    "to_json",
    "write_bytes",
    "write_text",
    "writing",
]

# How placeholders begin that are left where fetching the real file failed, and what they are.
_STAND_INS = (
    (b"version https://git-lfs", "is a Git LFS pointer, not the file itself; run `git lfs pull` where it was cloned"),
    (b"/annex/objects/", "is a git-annex pointer, not the file itself; run `git annex get` where it was cloned"),
    (b"# xet version", "is a Xet pointer, not the file itself; fetch it with `hf download`"),
    (b"<!doctype html", "is a web page, not the file itself; fetch it again, logged in where the model asks for it"),
    (b"<html", "is a web page, not the file itself; fetch it again, logged in where the model asks for it"),
)


def sha256(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with open_regular(path) as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def stand_in(path: Path) -> str:
    """Say if a file is only a placeholder: a pointer to large-file storage, or a web page; empty for any other file."""
    try:
        with open_regular(path) as file:
            begin = file.read(64).lstrip().lower()
    except OSError:
        return ""
    return next((text for mark, text in _STAND_INS if begin.startswith(mark)), "")


def damage(path: Path, error: object, mend: str) -> str:
    """Say why a file cannot be read, and what to do: it is a placeholder, or the reader's error and a mend."""
    empty = path.is_file() and not path.stat().st_size
    return stand_in(path) or f"is damaged ({'it is empty' if empty else error}); {mend}"


def to_json(value: Any) -> str:
    """Serialise to indented JSON with sorted keys and a final newline: equal values give equal bytes."""
    return json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"


def read_json(path: Path, what: str, most: int = LONGEST_TEXT) -> dict[str, Any]:
    """Read a JSON object, strictly as ``parse_json`` does.

    Args:
        path: The file.
        what: What the file is, for the message, such as ``"manifest"``.
        most: The most bytes that it may have.

    Raises:
        ArtifactError: If it is missing, longer, not a regular file, unreadable, not JSON or not an object.
    """
    try:
        value = parse_json(read_text(path, most))
    except FileNotFoundError:
        raise ArtifactError(f"{what} {path} does not exist", code="file-missing") from None
    except (OSError, ValueError) as error:
        raise ArtifactError(
            f"{what} {path} {damage(path, reason(error), 'restore it or make it again')}", code="file-damaged"
        ) from error
    if not isinstance(value, dict):
        raise ArtifactError(
            f"{what} {path} is damaged (not a JSON object); restore it or make it again", code="file-damaged"
        )
    return value


def differences(
    recipe: Mapping[str, Any], manifest: Mapping[str, Any], prefix: str = "", *, whole: bool = False
) -> str:
    """Name what differs between a recipe and a manifest, as ``training.lr 0.001 -> 0.002``, at most three entries.

    A manifest may hold more than its recipe, except among plug-ins' options: those that the recipe leaves out have their defaults.

    Args:
        recipe: The entries asked for.
        manifest: The entries on disk.
        prefix: What to put before the names.
        whole: Whether entries that only one of the two has count as differences.
    """
    missing = [key for key in manifest if whole and key not in recipe]
    changes = [f"{prefix}{key} {manifest[key]} -> default" for key in missing]
    for key, value in recipe.items():
        other = manifest.get(key)
        if key == "path" and "sha256" in recipe:
            continue  # equal checksums mean equal content, whatever the path
        if isinstance(value, Mapping) and isinstance(other, Mapping):
            if inner := differences(value, other, f"{prefix}{key}.", whole=whole or key == "options"):
                changes.append(inner)
        elif value != other or (whole and key not in manifest):
            changes.append(
                f"{prefix}{key}"
                if isinstance(value, (list, Mapping)) or other is None
                else f"{prefix}{key} {other} -> {value}"
            )
    return ", ".join(changes[:3])


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
            f"cannot write {path}: {reason}; nothing was changed, free space or choose another place",
            code="cannot-write",
        ) from error


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically, as ``write_bytes`` does."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically: readers see the old content or the new, never a part.

    Raises:
        CloraError: If the file cannot be written, or the path is not a file; what was there stays.
    """
    if path.exists() and not path.is_file():
        raise CloraError(
            f"cannot write {path}: it exists and is not a regular file; choose another name",
            code="target-not-regular-file",
        )
    if path.is_symlink():  # the link stays; its target is replaced
        path = real_path(path)
    with writing(path):
        make_folder(path.parent)
        sweep(path.parent)
        temporary = owned_name(path.parent)
        try:
            with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(content)
            temporary.chmod(0o644)
            persist(temporary)
            confirm()
            publish(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """Yield a temporary sibling folder to fill, then rename it to ``target``: the folder appears whole or not at all.

    An existing target is replaced only once the new folder is complete and on the disk. On any exception the temporary
    folder is removed and the target stays as it was.

    Raises:
        CloraError: If the folder cannot be written.
    """
    if target.exists() and not target.is_dir():
        raise CloraError(
            f"cannot write {target}: it exists and is no folder; choose another name", code="target-not-folder"
        )
    with writing(target):
        if target.is_symlink():  # the link stays; its target is replaced
            target = real_path(target)
        make_folder(target.parent)
        sweep(target.parent)
        temporary = owned_name(target.parent)
        temporary.mkdir(mode=0o700)
        try:
            yield temporary
            temporary.chmod(0o755)
            persist(temporary)
            confirm()
            publish(temporary, target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def discard(path: Path) -> None:
    """Remove a folder: its name disappears at once, however long removing the content takes; of a link, the link alone.

    Raises:
        CloraError: If it cannot be removed.
    """
    if not path.exists() and not path.is_symlink():
        return
    grave = owned_name(path.parent)
    try:
        path.rename(grave)
        if grave.is_symlink() or not grave.is_dir():
            grave.unlink()
        else:
            shutil.rmtree(grave)
    except OSError as error:
        raise CloraError(
            f"cannot remove {path}: {error.strerror or error}; remove it by hand", code="cannot-remove"
        ) from error
