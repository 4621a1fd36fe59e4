"""Safetensors files (layer L1): read whole, written whole, or written tensor by tensor."""

from __future__ import annotations

import contextlib
import json
import os
import re
import struct
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
_LONGEST = 1 << 25  # bytes of a header: an adapter of 90,000 factors, one an expert, takes half
_OS_ERROR = re.compile(r"\(os error (\d+)\)")  # how the library's Rust spells an errno
_LARGEST = 1e6  # magnitude of what is trained: the weights of models end near 100, float16 at 65,504
_ENTRY = {"dtype": name, "shape": listed(whole()), "data_offsets": listed(whole())}


def read_header(path: Path) -> tuple[dict[str, dict[str, Any]], int]:
    """Read what a safetensors file holds, without torch and without its tensors: 140 GB take milliseconds.

    Returns:
        Name to ``dtype``, ``shape`` and ``data_offsets``, and the byte at which the tensors begin.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it is no such file, or ends before its last tensor does.
    """
    with open_regular(path) as file:
        length, size = int.from_bytes(file.read(8), "little"), path.stat().st_size
        header = parse_json(file.read(min(length, size, _LONGEST)))  # a damaged length may be any
    if not isinstance(header, dict):
        raise ValueError("no header of a safetensors file")
    header.pop("__metadata__", None)
    for key, entry in header.items():
        odd = wrong(entry, _ENTRY) if isinstance(entry, dict) else "entry"
        if odd or len(entry["data_offsets"]) != 2:
            raise ValueError(f"no header of a safetensors file: '{shortened(key)}' has no {odd or 'end'}")
        if 8 + length + entry["data_offsets"][1] > size:
            raise ValueError(f"it ends within '{key}'")
    return header, 8 + length


@contextlib.contextmanager
def opened(path: Path, what: str, mend: str) -> Iterator[Any]:
    """Open a safetensors file whose header is in order, for reading tensor by tensor.

    Args:
        path: The file.
        what: What it is, for messages, such as ``"tensor file"``.
        mend: What to do if it is damaged.

    Yields:
        The library's handle.

    Raises:
        FileNotFoundError: If it is not there.
        ArtifactError: If it is damaged, or no regular file.
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
    """Yield a safetensors file's tensors, no two of them held at once.

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


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file.

    Raises:
        ArtifactError: If the file is missing or damaged.
    """
    return dict(each_tensor(path))


def _odd_numbers(tensors: Iterable[tuple[str, Tensor]], most: float = _LARGEST) -> str | None:
    """Name a tensor with numbers that no training leaves behind, which would spoil every answer in silence; None without.

    Args:
        tensors: Names and tensors; those of whole numbers are passed over.
        most: The largest magnitude; what is not finite is beyond any.
    """
    for key, tensor in tensors:
        if not tensor.numel() or not (tensor.is_floating_point() or tensor.is_complex()):
            continue
        try:
            low, high = (end.item() for end in _magnitudes(tensor).aminmax())
        except RuntimeError:  # a type that is for storing alone
            return key
        if not -most <= low <= high <= most:  # what is no number fails
            return key
    return None


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
    """Yield tensors on their way to a file, each of them held against ``check_written``."""
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
        path.chmod(0o644)  # the library writes for the owner alone
    except SafetensorError as error:  # how safetensors reports a full disk
        number = _OS_ERROR.search(str(error))
        if number is None:
            raise OSError(str(error)) from error
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error


def stream_tensors(
    path: Path, shapes: Mapping[str, tuple[int, ...]], dtype: torch.dtype, tensors: Iterable[tuple[str, Tensor]]
) -> None:
    """Write a safetensors file of one type tensor by tensor, so that no more than one is ever held.

    The library's own writers take all tensors at once; the format is a length, a JSON header and the bytes in order.

    Args:
        path: The file.
        shapes: Name to shape, in the order in which the tensors will come.
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
