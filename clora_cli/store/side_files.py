"""Files beside an adapter's weights (layer L1): their names, and their former names.

They hold tensors in the safetensors format, under another ending: servers take every ``*.safetensors`` in a folder for
weights.
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["FEATURES", "HEAD", "STATE", "current_name", "former_name", "side_file"]

FEATURES = "features.clora"
STATE = "state.clora"
HEAD = "head.clora"  # of dense deltas; beside factors it is among the weights
_FORMER = {FEATURES: "features.safetensors", STATE: "state.safetensors"}
_CURRENT = {former: name for name, former in _FORMER.items()}


def side_file(folder: Path, name: str) -> Path:
    """Return the path of a side file of an adapter folder, whether or not it exists.

    Args:
        folder: The adapter folder.
        name: ``FEATURES`` or ``STATE``.
    """
    former = folder / _FORMER[name]
    return former if former.exists() and not (folder / name).exists() else folder / name


def former_name(name: str) -> str:
    """Return clora 0.1's name for a side file."""
    return _FORMER[name]


def current_name(name: str) -> str:
    """Return the present name of a file of an adapter folder; most names have not changed."""
    return _CURRENT.get(name, name)
