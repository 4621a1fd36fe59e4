"""Names that every disk takes (layer L0): a package is copied from one to another, and to people with other systems."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path

from clora_cli.base.errors import OptionError
from clora_cli.base.legible import is_legible

__all__ = ["check_path", "folder_problem", "same_on_some_disk", "twin"]

_LONGEST = 200  # bytes: 255 are what disks take, and temporary names beside a folder add some
_LONGEST_PATH = 4000  # bytes; Linux takes 4096
# Names that Windows keeps for devices, whatever ending follows.
_DEVICES = re.compile(r"(con|prn|aux|nul|com[0-9\u00b9\u00b2\u00b3]|lpt[0-9\u00b9\u00b2\u00b3])(\..*)?", re.IGNORECASE)
_NOT_ON_WINDOWS = frozenset('<>:"|?*')


def folder_problem(name: str) -> str | None:
    """Say what is to change of a name that cannot be a member's folder on every disk; None if it can.

    Args:
        name: One name, no path.
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
    """Return what two names have in common if a disk takes them for one: their letters without case, composed alike."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFKC", name).casefold())


def twin(name: str, others: Iterable[str]) -> str | None:
    """Return another name that some disk takes for this one; None if there is none."""
    key = same_on_some_disk(name)
    return next((other for other in others if other != name and same_on_some_disk(other) == key), None)


def check_path(path: Path, option: str) -> None:
    """Refuse a place to write whose name no disk takes, before anything is computed for it.

    Args:
        path: The place.
        option: Who gave it, for the message, such as ``"--out"``.

    Raises:
        OptionError: If it is too long, or has letters that cannot be shown.
    """
    long = next((part for part in path.parts if len(os.fsencode(part)) > _LONGEST), None)
    if long is not None or len(os.fsencode(path.absolute())) > _LONGEST_PATH:
        told = f"{str(path)[:40]}… is too long for a disk; keep each name below {_LONGEST} bytes"
        raise OptionError(f"{option} {told}", code="path-too-long")
    if not is_legible(str(path)):
        raise OptionError(
            f"{option} {path}: the name has letters that cannot be shown; choose another", code="name-not-legible"
        )
