"""Read a file as text: compressed or not, in any Unicode encoding (layer L1)."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from clora_cli.base.errors import DataError

__all__ = ["COMPRESSED", "bare", "ending", "in_brief", "library", "read_bytes", "read_text", "starts_with"]


def ending(path: Path) -> str:
    """Return the format in a file's name, in lower case: ``.jsonl`` for ``a.jsonl`` and ``a.jsonl.gz``."""
    suffix = path.suffix.lower()
    return Path(path.stem).suffix.lower() if suffix in COMPRESSED else suffix


def bare(path: Path) -> str:
    """Return a file's name without the ending of its format: ``a`` for ``a.jsonl.gz``."""
    return Path(path.stem).stem if path.suffix.lower() in COMPRESSED else path.stem


def read_bytes(path: Path) -> bytes:
    """Return a file's content, unpacked.

    Raises:
        DataError: The file cannot be opened or unpacked.
    """
    unpack = COMPRESSED.get(path.suffix.lower())
    with _opening(path):
        packed = path.read_bytes()
        return unpack(packed) if unpack else packed


def starts_with(path: Path, size: int) -> bytes:
    """Return a file's first bytes, unpacked where it is compressed.

    Raises:
        DataError: As :func:`read_bytes`.
    """
    if path.suffix.lower() in COMPRESSED:
        return read_bytes(path)[:size]
    with _opening(path), path.open("rb") as file:
        return file.read(size)


def read_text(path: Path) -> str:
    """Return a file's text, without a byte-order mark: UTF-8, or UTF-16 or UTF-32 as its first bytes tell.

    Raises:
        DataError: The file cannot be opened, is empty or has another encoding.
    """
    data = read_bytes(path)
    encoding = json.detect_encoding(data)
    try:
        # Only the first mark counts; a second one, as in joined files, is a zero-width space inside the text.
        text = data.decode(encoding).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        if kind := next((kind for start, kind in _FORMATS.items() if data.startswith(start)), ""):
            raise DataError(
                f"{path}: it is no text but {kind}; give its name the ending that says so", code="file-not-text"
            ) from error
        line = data.count(b"\n", 0, error.start) + 1
        name = "UTF-8" if encoding.startswith("utf-8") else encoding.upper()
        raise DataError(
            f"{path}, line {line}: not {name} text; convert the file to UTF-8", code="text-wrong-encoding"
        ) from error
    if not text.strip():
        raise DataError(f"{path}: the file is empty; give a whole one", code="file-empty")
    return text


# How files that are not text begin, whatever their name says.
_FORMATS = {
    b"\x1f\x8b": "packed by gzip (.gz)",
    b"BZh": "packed by bzip2 (.bz2)",
    b"\xfd7zXZ": "packed by xz (.xz)",
    b"\x28\xb5\x2f\xfd": "packed by zstd (.zst)",
    b"PK\x03\x04": "a zip archive or a spreadsheet (.zip, .xlsx), which is to be unpacked or saved as .csv first",
    b"PAR1": "a Parquet file (.parquet)",
    b"ARROW1": "an Arrow file, which is to be written as .parquet first",
}


@contextmanager
def library(place: str, what: str, mend: str) -> Iterator[None]:
    """Turn an error of pyarrow, ``datasets`` or lm-evaluation-harness about a user's data into an error of one line.

    Args:
        place: The source of the data, for the message.
        what: What the data should have been.
        mend: What to do.

    Raises:
        DataError: Instead of the library's error.
    """
    import pyarrow as pa  # type: ignore[import-untyped]
    from datasets.exceptions import DatasetsError
    from jinja2 import TemplateError

    expected = (pa.ArrowException, DatasetsError, OSError, ValueError, TypeError, LookupError, AttributeError)
    others = (RuntimeError, ImportError, EOFError, ArithmeticError, MemoryError, StopIteration, TemplateError)
    try:
        yield
    except DataError:
        raise
    except (*expected, *others) as error:
        raise DataError(f"{place}: not {what} ({in_brief(error)}); {mend}", code="data-not-readable") from error


_LONGEST_REASON = 200  # characters of a library's own message


def in_brief(error: BaseException) -> str:
    """Return a library's message in one line, with the error's class where the message alone says too little."""
    text = " ".join(str(error).split())
    text = f"{type(error).__name__} {text}".strip() if isinstance(error, LookupError) or not text else text
    return text if len(text) <= _LONGEST_REASON else f"{text[:_LONGEST_REASON]}..."


@contextmanager
def _opening(path: Path) -> Iterator[None]:
    try:
        yield
    except (EOFError, ValueError, zlib.error, lzma.LZMAError) as error:
        raise DataError(
            f"{path}: cannot be unpacked ({in_brief(error)}); pack it again", code="archive-damaged"
        ) from error
    except OSError as error:
        if error.strerror is None:  # an error of the decompressor itself
            raise DataError(
                f"{path}: cannot be unpacked ({in_brief(error)}); pack it again", code="archive-damaged"
            ) from error
        raise DataError(
            f"{path}: cannot be read: {error.strerror}; check the path and its permissions", code="path-unreadable"
        ) from error


def _zstandard(packed: bytes) -> bytes:
    import pyarrow as pa

    try:
        unpacked: bytes = pa.CompressedInputStream(pa.BufferReader(packed), "zstd").read()
    except pa.ArrowException as error:
        raise OSError(str(error)) from error
    return unpacked


COMPRESSED: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.decompress,
    ".bz2": bz2.decompress,
    ".xz": lzma.decompress,
    ".zst": _zstandard,
}
