"""Safetensors files (layer L1): read whole, written whole, or written tensor by tensor."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clora_cli.errors import ArtifactError, CloraError
from clora_cli.files import damage

if TYPE_CHECKING:
    import torch
    from torch import Tensor

__all__ = ["read_header", "read_tensors", "save_tensors", "stream_tensors"]

_CODES = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}


def read_header(path: Path) -> tuple[dict[str, dict[str, Any]], int]:
    """Read what a safetensors file holds, without torch and without its tensors: 140 GB take milliseconds.

    Returns:
        Name to ``dtype``, ``shape`` and ``data_offsets``, and the byte at which the tensors begin.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it is no such file, or ends before its last tensor does.
    """
    with path.open("rb") as file:
        length, size = int.from_bytes(file.read(8), "little"), path.stat().st_size
        header = json.loads(file.read(min(length, size)))  # a damaged length may be any
    try:
        header.pop("__metadata__", None)
        for name, entry in header.items():
            _, end = entry["data_offsets"]
            if 8 + length + end > size:
                raise ValueError(f"it ends within '{name}'")
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"no header of a safetensors file: {error!r}") from error
    return header, 8 + length


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file.

    Raises:
        ArtifactError: If the file is missing or damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except FileNotFoundError:
        raise ArtifactError(f"tensor file {path} does not exist; restore it or make the adapter again") from None
    except (SafetensorError, OSError) as error:
        told = damage(path, error, "restore it or make the adapter again")
        raise ArtifactError(f"tensor file {path} {told}") from error


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a safetensors file, names sorted: equal tensors give equal bytes.

    Raises:
        CloraError: If the file cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    ordered = {key: tensors[key].detach().cpu().contiguous() for key in sorted(tensors)}
    try:
        save_file(ordered, path, metadata={"format": "pt"})
        path.chmod(0o644)  # the library writes for the owner alone
    except SafetensorError as error:  # how safetensors reports a full disk
        raise CloraError(
            f"cannot write {path}: {error}; nothing was changed, free space or choose another place"
        ) from error


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
    for name, shape in shapes.items():
        start, end = end, end + size * torch.Size(shape).numel()
        header[name] = {"dtype": code, "shape": list(shape), "data_offsets": [start, end]}
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    expected = iter(shapes.items())
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(encoded)) + encoded)
        for name, tensor in tensors:
            if (name, tuple(tensor.shape)) != next(expected):
                raise ValueError(f"tensor '{name}' of shape {tuple(tensor.shape)} does not come where it was announced")
            file.write(tensor.detach().to(device="cpu", dtype=dtype).contiguous().view(torch.uint8).numpy().data)
    if next(expected, None) is not None:
        raise ValueError("fewer tensors came than were announced")
