"""Images as rows have them: named by their bytes, and read again when a model sees them (layer L1)."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from clora_cli.base.errors import DataError
from clora_cli.base.intake import read_bytes, reason
from clora_cli.base.legible import shortened
from clora_cli.data.values import is_blank

__all__ = ["ENDINGS", "Picture", "picture_in"]

# Of the files that are images in a folder of them: of the formats of pictures that Pillow decodes, under all their common endings.
ENDINGS = set(".avif .bmp .gif .j2k .jfif .jp2 .jpe .jpeg .jpg .pbm .pgm .png .pnm .ppm .tga .tif .tiff .webp".split())
_LONGEST = 500  # characters of a path in a message; some cells hold a whole image as text
_ADDRESS = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]+://")


@dataclass(frozen=True, slots=True)
class Picture:
    """An image.

    Attributes:
        digest: SHA-256 of its bytes as they are stored, in hex: what it is known by in fingerprints and among rows that are alike.
        path: The file that holds it; empty where ``data`` does.
        data: Its bytes.
        row: The file and row that gave these bytes, for messages.
    """

    digest: str
    path: str = ""
    data: bytes = field(default=b"", repr=False)
    row: str = field(default="", compare=False)

    @classmethod
    def of_file(cls, path: Path, where: str) -> Picture:
        """Return the image in a file, which is read now to know it and again whenever a model sees it.

        Raises:
            DataError: It cannot be read.
        """
        return cls(_digest(_content(path, where)), str(path))

    @classmethod
    def of_bytes(cls, data: bytes, row: str = "") -> Picture:
        """Return the image that some bytes are."""
        return cls(_digest(data), data=data, row=row)

    @property
    def name(self) -> str:
        """What stands for it where a row's text would."""
        return f"image {self.digest}"

    @property
    def place(self) -> str:
        """What it is called in messages."""
        return f"image {self.path or self.row or self.digest[:12]}"

    def read(self) -> bytes:
        """Return its bytes.

        Raises:
            DataError: Its file is gone, or holds something else by now.
        """
        if not self.path:
            return self.data
        data = _content(Path(self.path), self.path)
        if _digest(data) != self.digest:
            raise DataError(
                f"{self.path}: another image than when it was first read; start again", code="image-changed"
            )
        return data


def picture_in(cell: object, where: str, column: str, folder: Path) -> Picture | None:
    """Return the image that a cell holds: bytes, a path, or the Hub's ``{"bytes", "path"}``; None of an empty one.

    Args:
        cell: The cell.
        where: File and place, for messages.
        column: Its column, for messages.
        folder: What paths start from.

    Raises:
        DataError: It is none of these, an address, or its file cannot be read.
    """
    if isinstance(cell, Mapping):
        cell = cell.get("bytes") or cell.get("path")
    if isinstance(cell, bytes):
        return Picture.of_bytes(cell, where) if cell else None
    if isinstance(cell, str) and not is_blank(cell):
        if _ADDRESS.match(cell.strip()):
            raise DataError(
                f"{where}: image {shortened(cell.strip(), _LONGEST)} is an address, and images are read from disk; download it and "
                "give its path",
                code="image-not-on-disk",
            )
        return Picture.of_file(folder / cell.strip(), where)
    if not is_blank(cell):
        raise DataError(
            f"{where}: '{column}' is a {type(cell).__name__}; expected an image: its bytes or the path of its file",
            code="value-not-image",
        )
    return None


def _content(path: Path, where: str) -> bytes:
    try:
        return read_bytes(path)
    except (OSError, ValueError) as error:  # no path has a null character, or half a surrogate pair
        raise DataError(
            f"{where}: image {shortened(str(path), _LONGEST)} cannot be read: {reason(error)}; check the path",
            code="image-unreadable",
        ) from error


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
