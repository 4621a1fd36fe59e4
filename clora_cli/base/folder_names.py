"""Folder names that every file system accepts (layer L0): packages are copied between disks and systems."""

from __future__ import annotations

import errno
import os
import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path

from clora_cli.base.errors import OptionError
from clora_cli.base.legible import is_legible

__all__ = ["check_file", "check_path", "folder_problem", "same_on_some_disk", "twin"]

_LONGEST = 200  # bytes: file systems take 255, and temporary names beside a folder add some
_LONGEST_PATH = 4000  # bytes; Linux takes 4096
# Names that Windows reserves for devices, with any ending.
_DEVICES = re.compile(r"(con|prn|aux|nul|com[0-9\u00b9\u00b2\u00b3]|lpt[0-9\u00b9\u00b2\u00b3])(\..*)?", re.IGNORECASE)
_NOT_ON_WINDOWS = frozenset('<>:"|?*')


def folder_problem(name: str) -> str | None:
    """Return how to change a name that some file system does not accept for a folder; None if all do.

    Args:
        name: A single name, not a path.
    """
    if not name.strip() or name.startswith(".") or {"/", "\\"} & set(name):
        return "leave out slashes and a leading dot"
    if not is_legible(name):
        return "leave out letters that cannot be shown"
    if len(os.fsencode(name)) > _LONGEST:
        return f"keep it below {_LONGEST} bytes"
    if _NOT_ON_WINDOWS & set(name) or name[-1] in ". " or name[0] == " " or _DEVICES.fullmatch(name):
        return 'Windows has no such names: those of devices, with any of <>:"|?*, or with a dot or a space at the end'
    return None


def same_on_some_disk(name: str) -> str:
    """Return the form of a name that is equal for names that some file system takes for one: case folded, letters composed."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFKC", name).casefold())


def twin(name: str, others: Iterable[str]) -> str | None:
    """Return another name that some file system takes for this one; None if there is none."""
    key = same_on_some_disk(name)
    return next((other for other in others if other != name and same_on_some_disk(other) == key), None)


def check_file(path: Path | None, option: str) -> None:
    """Refuse a place for a file that something else holds, before anything is computed for it.

    Args:
        path: The place; None for no file.
        option: The option that gave it, for the message, such as ``"--out"``.

    Raises:
        OptionError: If a folder is there, or a device.
    """
    if path is not None and path.exists() and not path.is_file():
        raise OptionError(
            f"{option} {path} exists and is no regular file; choose another name", code="target-not-regular-file"
        )


def check_path(path: Path, option: str) -> None:
    """Refuse an output path that cannot be written, before anything is computed for it.

    Args:
        path: The output path.
        option: The option that gave it, for the message, such as ``"--out"``.

    Raises:
        OptionError: If it is too long, has letters that cannot be shown, or leads through a link to itself.
    """
    long = next((part for part in path.parts if len(os.fsencode(part)) > _LONGEST), None)
    if long is not None or len(os.fsencode(path.absolute())) > _LONGEST_PATH:
        raise OptionError(
            f"{option} {str(path)[:40]}… is too long for a disk; keep each name below {_LONGEST} bytes",
            code="path-too-long",
        )
    if not is_legible(str(path)):
        raise OptionError(
            f"{option} {path}: the name has letters that cannot be shown; choose another", code="name-not-legible"
        )
    try:
        path.stat()
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise OptionError(
                f"{option} {path} leads through a link to itself; remove that link, or choose another",
                code="path-loops",
            ) from error
