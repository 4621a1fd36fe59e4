"""What a base model's image processor does to images (layer L1): part of which model it is, for other pixels give other answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from clora_cli.base.files import read_json

__all__ = ["image_settings"]

_FILE = "preprocessor_config.json"
_DECIDING = (
    *("do_resize", "size", "resample", "do_center_crop", "crop_size", "crop_pct", "do_pad", "pad_size"),
    *("do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std"),
)


def image_settings(folder: Path) -> dict[str, str]:
    """Return what decides the pixels that a model sees, as its folder writes it.

    Numbers alone are kept of sizes: versions of Transformers write 224, ``{"height": 224, "width": 224}`` and
    ``{"shortest_edge": 224}`` for one size.

    Raises:
        ArtifactError: If the file cannot be read.
    """
    if not (folder / _FILE).is_file():
        return {}
    content = read_json(folder / _FILE, "image processor")
    return {key: _spelled(content[key]) for key in _DECIDING if content.get(key) is not None}


def _spelled(value: Any) -> str:
    return " ".join(dict.fromkeys(_parts(value))) if isinstance(value, Mapping) else " ".join(_parts(value))


def _parts(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        value = [value[key] for key in sorted(value) if value[key] is not None]
    for part in value if isinstance(value, list) else [value]:
        yield f"{part:g}" if isinstance(part, (int, float)) and not isinstance(part, bool) else str(part)
