"""Safetensors files (layer L1): read whole, written whole, or written tensor by tensor."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from clora_cli.base.errors import ArtifactError, CloraError
from clora_cli.base.intake import open_regular, parse_json, reason
from clora_cli.base.legible import shortened
from clora_cli.base.records import listed, name, whole, wrong

if TYPE_CHECKING:
    import torch
    from torch import Tensor

__all__ = [
    "check_numbers",
    "check_written",
    "checked",
    "each_tensor",
    "opened",
    "read_header",
    "read_tensors",
    "save_tensors",
    "stream_tensors",
]

_CODES = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}
_SHORT = 1 << 16  # bytes of a header that is kept in memory
_LONGEST = 1 << 25  # bytes of a header: an adapter with 90,000 factors, one per expert, needs half of it
_FEW = 1 << 18  # numbers that are copied to be examined together
_SMALL = 1 << 24  # bytes of a file that may be in memory twice
_OS_ERROR = re.compile(r"\(os error (\d+)\)")  # how the Rust library spells an errno
_LARGEST = 1e6  # largest plausible magnitude: model weights stay near 100, float16 ends at 65,504
_ENTRY = {"dtype": name, "shape": listed(whole()), "data_offsets": listed(whole())}


def read_header(path: Path) -> tuple[dict[str, dict[str, Any]], int]:
    """Read the header of a safetensors file, without torch and without its tensors: 140 GB take milliseconds.

    Returns:
        Name to ``dtype``, ``shape`` and ``data_offsets``, and the byte at which the tensors begin.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it is not a safetensors file, or ends before its last tensor.
    """
    with open_regular(path) as file:
        return _header(file)


def _header(file: BinaryIO) -> tuple[dict[str, dict[str, Any]], int]:
    length, size = int.from_bytes(file.read(8), "little"), os.fstat(file.fileno()).st_size
    if length > size - 8:  # a damaged length may be any number
        raise ValueError("it ends within its header")
    text = file.read(min(length, _LONGEST))
    header = _entries(text) if len(text) <= _SHORT else _entries.__wrapped__(text)
    for key, entry in header.items():
        if 8 + length + entry["data_offsets"][1] > size:
            raise ValueError(f"it ends within '{key}'")
    return dict(header), 8 + length


@functools.lru_cache(maxsize=16)  # adapters of a package have one and the same
def _entries(text: bytes) -> Mapping[str, dict[str, Any]]:
    header = parse_json(text)
    if not isinstance(header, dict):
        raise ValueError("no header of a safetensors file")
    header.pop("__metadata__", None)
    for key, entry in header.items():
        odd = wrong(entry, _ENTRY) if isinstance(entry, dict) else "entry"
        if odd or len(entry["data_offsets"]) != 2:
            raise ValueError(f"no header of a safetensors file: '{shortened(key)}' has no {odd or 'end'}")
    return header


@contextlib.contextmanager
def opened(path: Path, what: str, mend: str) -> Iterator[Any]:
    """Open a safetensors file for reading tensor by tensor, after checking its header.

    Args:
        path: The file.
        what: What it is, for messages, such as ``"tensor file"``.
        mend: What to do if it is damaged.

    Yields:
        The library's handle.

    Raises:
        FileNotFoundError: If it is not there.
        ArtifactError: If it is damaged, or not a regular file.
    """
    from safetensors import SafetensorError, safe_open

    try:
        read_header(path)
        with safe_open(path, framework="pt") as file:
            yield file
    except FileNotFoundError:
        raise
    except (SafetensorError, OSError, ValueError) as error:
        raise ArtifactError(
            f"{what} {path} is damaged ({reason(error)}); {mend}", code="tensor-file-damaged"
        ) from error


def each_tensor(path: Path) -> Iterator[tuple[str, Tensor]]:
    """Yield a safetensors file's tensors, holding one at a time.

    Raises:
        ArtifactError: If the file is missing or damaged.
    """
    mend = "restore it or make the adapter again"
    try:
        with opened(path, "tensor file", mend) as file:
            for key in file.keys():
                yield key, file.get_tensor(key)
    except FileNotFoundError:
        raise ArtifactError(f"tensor file {path} does not exist; {mend}", code="tensor-file-missing") from None


def read_tensors(path: Path, *, at_once: bool = False) -> dict[str, Tensor]:
    """Read a safetensors file.

    Args:
        path: The file.
        at_once: Whether to read a small file whole, in a third of the time: for those who read one after another and keep none.

    Raises:
        ArtifactError: If the file is missing or damaged.
    """
    tensors = _at_once(path) if at_once else None
    return dict(each_tensor(path)) if tensors is None else tensors


def _at_once(path: Path) -> dict[str, Tensor] | None:
    """Read a small file; None if it is large, or anything is wrong."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        with open_regular(path) as file:
            if os.fstat(file.fileno()).st_size > _SMALL:
                return None
            _header(file)
            file.seek(0)
            tensors = load(file.read())
            return {key: tensors[key] for key in sorted(tensors)}
    except (SafetensorError, OSError, ValueError, KeyError):  # the slower way tells what
        return None


def _odd_numbers(tensors: Iterable[tuple[str, Tensor]], most: float = _LARGEST) -> str | None:
    """Name a tensor with numbers that no sound training produces, which would silently spoil every answer; None if none.

    Args:
        tensors: Names and tensors; integer tensors are skipped.
        most: The largest magnitude allowed; numbers that are not finite never are.
    """
    for group in _groups(tensors):
        if _beyond([tensor for _, tensor in group], most):
            return next(key for key, tensor in group if _beyond([tensor], most))
    return None


def _groups(tensors: Iterable[tuple[str, Tensor]]) -> Iterator[list[tuple[str, Tensor]]]:
    """Yield the tensors of fractions in groups of one type: small ones are examined together, in a tenth of the time."""
    group: list[tuple[str, Tensor]] = []
    size = 0
    for key, tensor in tensors:
        if not tensor.numel() or not (tensor.is_floating_point() or tensor.is_complex()):
            continue
        if group and (tensor.dtype != group[0][1].dtype or size + tensor.numel() > _FEW):
            yield group
            group, size = [], 0
        group.append((key, tensor))
        size += tensor.numel()
    if group:
        yield group


def _beyond(tensors: Sequence[Tensor], most: float) -> bool:
    import torch

    try:
        flat = [_magnitudes(tensor).flatten() for tensor in tensors]
        low, high = (end.item() for end in (torch.cat(flat) if len(flat) > 1 else flat[0]).aminmax())
    except RuntimeError:  # a type that is only for storing
        return True
    return not -most <= low <= high <= most  # NaN fails this


def check_numbers(tensors: Iterable[tuple[str, Tensor]], where: Path, most: float = _LARGEST) -> None:
    """Refuse tensors with numbers that are not finite, or too large.

    Raises:
        ArtifactError: If there is one.
    """
    if (odd := _odd_numbers(tensors, most)) is not None:
        raise ArtifactError(
            f"adapter {where} is damaged: '{odd}' has numbers that are not finite or beyond {most:g}; "
            "restore it or make it again",
            code="numbers-not-finite",
        )


def check_written(target: Path, tensors: Iterable[tuple[str, Tensor]]) -> None:
    """Refuse to write numbers that are not finite, or too large.

    Raises:
        CloraError: If there are any.
    """
    if (odd := _odd_numbers(tensors)) is not None:
        raise CloraError(
            f"{target} would get numbers at '{odd}' that are not finite or beyond {_LARGEST:g}, as from too large a --lr, "
            "--alpha or weight; nothing was written",
            code="result-not-finite",
        )


def checked(target: Path, tensors: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    """Yield tensors on their way to a file, each checked with ``check_written``."""
    for key, tensor in tensors:
        check_written(target, [(key, tensor)])
        yield key, tensor


def _magnitudes(tensor: Tensor) -> Tensor:
    if tensor.is_complex():
        return tensor.abs()
    return tensor.float() if tensor.element_size() == 1 else tensor


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a safetensors file, names sorted: equal tensors give equal bytes.

    Raises:
        OSError: If the disk is full; the caller's ``writing`` turns it into a message.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    ordered = {key: tensors[key].detach().cpu().contiguous() for key in sorted(tensors)}
    try:
        save_file(ordered, path, metadata={"format": "pt"})
        path.chmod(0o644)  # the library makes files readable for the owner only
    except SafetensorError as error:  # how safetensors reports a full disk
        number = _OS_ERROR.search(str(error))
        if number is None:
            raise OSError(str(error)) from error
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error


def stream_tensors(
    path: Path, shapes: Mapping[str, tuple[int, ...]], dtype: torch.dtype, tensors: Iterable[tuple[str, Tensor]]
) -> None:
    """Write a safetensors file of one type tensor by tensor, holding one at a time.

    The library's own writers take all tensors at once; the format is a length, a JSON header and the bytes in order.

    Args:
        path: The file.
        shapes: Name to shape, in the order of the tensors.
        dtype: float32, bfloat16 or float16.
        tensors: Name and tensor, in that order.

    Raises:
        OSError: If the disk is full; the caller's ``writing`` turns it into a message.
    """
    import torch

    code, size = _CODES[str(dtype).removeprefix("torch.")], torch.empty(0, dtype=dtype).element_size()
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for key, shape in shapes.items():
        start, end = end, end + size * torch.Size(shape).numel()
        header[key] = {"dtype": code, "shape": list(shape), "data_offsets": [start, end]}
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    expected = iter(shapes.items())
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(encoded)) + encoded)
        for key, tensor in tensors:
            if (key, tuple(tensor.shape)) != next(expected):
                raise ValueError(f"tensor '{key}' of shape {tuple(tensor.shape)} does not come where it was announced")
            file.write(tensor.detach().to(device="cpu", dtype=dtype).contiguous().view(torch.uint8).numpy().data)
    if next(expected, None) is not None:
        raise ValueError("fewer tensors came than were announced")
