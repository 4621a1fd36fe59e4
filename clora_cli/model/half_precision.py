"""Whether a processor computes in half precision, or only imitates it (layer L1)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

__all__ = ["OF_MACHINE", "computes_in", "slow_here"]

OF_MACHINE = "this processor"  # what is said of it begins so
# What oneDNN, which multiplies matrices for PyTorch on a processor, says of it, by type.
_ASKED = {"bfloat16": "_is_mkldnn_bf16_supported", "float16": "_is_mkldnn_fp16_supported"}


def computes_in(dtype: str) -> bool:
    """Tell whether this machine's processor has instructions for a type; true where PyTorch does not know.

    Args:
        dtype: ``float32``, ``bfloat16`` or ``float16``.
    """
    import torch

    library: Any = torch.backends.mkldnn
    if dtype not in _ASKED or not library.is_available():
        return True
    asked: Any = getattr(torch.ops.mkldnn, _ASKED[dtype], None)
    return asked is None or bool(asked())


def slow_here(dtype: str, device: torch.device) -> str:
    """Return what people should know of a type on a device; empty where there is nothing.

    Args:
        dtype: ``float32``, ``bfloat16`` or ``float16``.
        device: Where the base model runs.
    """
    if device.type != "cpu" or computes_in(dtype):
        return ""
    return (
        f"{OF_MACHINE} has no instructions for {dtype}, in which a step takes many times as long as in float32: pass "
        "--dtype float32, which needs twice the memory for the base model"
    )
