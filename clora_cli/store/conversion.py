"""Adapters whose weights are a pickle (layer L1): a command for the user to convert them; clora never loads pickles."""

from __future__ import annotations

import shlex
from pathlib import Path

__all__ = ["conversion"]

_PICKLED = "adapter_model.bin"


def conversion(path: Path) -> str:
    """Say how to get readable weights into an adapter folder, as the end of a message.

    With ``weights_only``, PyTorch reads nothing but tensors from a pickle.
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
