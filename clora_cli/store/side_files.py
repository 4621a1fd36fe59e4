"""Files beside an adapter's weights (layer L1): what they are called, and what they were called before.

They hold tensors in the safetensors format. Their ending is another: servers take every ``*.safetensors`` of a folder for
weights.
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["FEATURES", "STATE", "current_name", "former_name", "side_file"]

FEATURES = "features.clora"
STATE = "state.clora"
_FORMER = {FEATURES: "features.safetensors", STATE: "state.safetensors"}
_CURRENT = {former: name for name, former in _FORMER.items()}


def side_file(folder: Path, name: str) -> Path:
    """Return where a side file of an adapter folder is, or would be written.

    Args:
        folder: The adapter folder.
        name: ``FEATURES`` or ``STATE``.
    """
    former = folder / _FORMER[name]
    return former if former.exists() and not (folder / name).exists() else folder / name


def former_name(name: str) -> str:
    """Return what clora 0.1 called a side file."""
    return _FORMER[name]


def current_name(name: str) -> str:
    """Return what a file of an adapter folder is called now; most are called what they always were."""
    return _CURRENT.get(name, name)
