"""Adapters in llama.cpp's format, and models that an adapter is added to (layer L1): both written by the gguf package."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from clora_cli.algebra.lora import Factor
from clora_cli.model.gguf_file import check_gguf_installed, open_gguf
from clora_cli.model.gguf_layout import GgufLayout

__all__ = ["write_gguf_adapter", "write_gguf_model"]

_KEPT_BY_WRITER = ("GGUF.", "general.architecture")


def write_gguf_adapter(
    path: Path, factors: Mapping[str, Factor], layout: GgufLayout, *, name: str, dtype: torch.dtype = torch.float32
) -> None:
    """Write a LoRA as llama.cpp loads it beside a model (``--lora``).

    It multiplies by ``alpha / rank``; scalings are in ``b`` already, so alpha is the rank.

    Args:
        path: The file.
        factors: Pairs of one rank and of scaling 1, by site.
        layout: The base model's.
        name: The adapter's name.
        dtype: float32 or float16.

    Raises:
        MismatchError: If llama.cpp takes no adapter at a site, or it does not fit the base model's file.
        OptionError: If the gguf package is not installed.
    """
    check_gguf_installed(f"{path.name} is a GGUF file")
    import gguf

    rank = next(iter(factors.values())).rank
    placed = _placed(factors, layout)
    writer = gguf.GGUFWriter(path, layout.architecture)
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_name(name)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, float(rank))
    for tensor, factor in placed.items():
        writer.add_tensor(f"{tensor}.lora_a", factor.a.to(dtype).contiguous().numpy())
        writer.add_tensor(f"{tensor}.lora_b", factor.b.to(dtype).contiguous().numpy())
    _write(writer)


def write_gguf_model(base: Path, path: Path, factors: Mapping[str, Factor], layout: GgufLayout, *, name: str) -> None:
    """Write a model in GGUF with a LoRA added to its weights; all other tensors stay as they are, byte for byte.

    Weights that change are stored in float16, or float32 where the base model's are: adding a small delta to a weight of 4 bits
    and rounding it again would lose most of the delta.

    Args:
        base: The base model's file.
        path: The file to write.
        factors: As for ``write_gguf_adapter``.
        layout: That of ``base``.
        name: The model's name.

    Raises:
        CloraError: As ``write_gguf_adapter``.
    """
    import gguf

    reader, placed = open_gguf(base), _placed(factors, layout)
    writer = gguf.GGUFWriter(path, layout.architecture)
    for key, field in reader.fields.items():
        if not key.startswith(_KEPT_BY_WRITER) and key != "general.name":
            writer.add_key_value(
                key, field.contents(), field.types[0], field.types[-1] if len(field.types) > 1 else None
            )
    writer.add_name(name)
    for tensor in reader.tensors:
        if tensor.name in placed:
            writer.add_tensor(tensor.name, _changed(tensor, placed[tensor.name]))
        else:
            writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    _write(writer)


def _placed(factors: Mapping[str, Factor], layout: GgufLayout) -> dict[str, Factor]:
    placed = {}
    for site, factor in factors.items():
        name = layout.name(site)
        layout.check(name, factor.shape, site)
        placed[name] = Factor(factor.a, layout.rows(name, factor.b), factor.scaling)
    return placed


def _changed(tensor: Any, factor: Factor) -> Any:
    import gguf

    whole = tensor.tensor_type == gguf.GGMLQuantizationType.F32
    weight = torch.from_numpy(gguf.quants.dequantize(tensor.data, tensor.tensor_type).copy())
    return (weight + factor.delta()).to(torch.float32 if whole else torch.float16).numpy()


def _write(writer: Any) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
