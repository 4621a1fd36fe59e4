"""Adapters whose weights are a pickle (layer L1): the command that converts them, which clora itself never runs."""

from __future__ import annotations

import shlex
from pathlib import Path

__all__ = ["conversion"]

_PICKLED = "adapter_model.bin"


def conversion(path: Path) -> str:
    """Say what to do about an adapter folder without readable weights, as the end of a message.

    PyTorch takes numbers alone from a pickle that it reads with ``weights_only``.
    """
    if not (path / _PICKLED).is_file():
        return "; restore it or make the adapter again"
    read = f"torch.load('{_PICKLED}', map_location='cpu', weights_only=True)"
    copied = f"{{k: v.clone().contiguous() for k, v in {read}.items()}}"
    save = f"save_file({copied}, 'adapter_model.safetensors', {{'format': 'pt'}})"
    command = (
        f'(cd {shlex.quote(str(path))} && python -c "import torch; from safetensors.torch import save_file; {save}")'
    )
    return f", but {_PICKLED}, a pickle, which clora never loads; convert it with {command}"
