"""Remove checksums of rows that a manifest must not hold beside a private distribution of them (layer L1)."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from clora_cli.base.files import read_json, to_json, write_text
from clora_cli.store.manifest_parts import MANIFEST

__all__ = ["WITHHELD", "as_withheld", "withhold"]

WITHHELD = ""  # replaces a withheld checksum


def withhold(folder: Path, fingerprints: Collection[str]) -> bool:
    """Remove checksums of rows from an adapter's manifest: with them, anyone who knows all rows but one could test guesses.

    Args:
        folder: The adapter folder; without a manifest there is nothing to remove.
        fingerprints: The checksums of the data behind a private distribution.

    Returns:
        Whether any was removed.

    Raises:
        ArtifactError: If the manifest is damaged.
        CloraError: If it cannot be written; it then stays as it was.
    """
    if not (folder / MANIFEST).exists():
        return False
    manifest = read_json(folder / MANIFEST, "manifest")
    entries = _of_rows(manifest)
    exposed = [entry for entry in entries if entry.get("fingerprint") in fingerprints]
    for entry in exposed:
        entry["fingerprint"] = WITHHELD
    if exposed:
        write_text(folder / MANIFEST, to_json(manifest))
    return bool(exposed)


def as_withheld(recipe: Mapping[str, Any], manifest: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a recipe without the checksums that a manifest withholds, to compare the two."""
    hidden = [entry.get("fingerprint") == WITHHELD for entry in _of_rows(manifest)]
    if not any(hidden):
        return recipe
    visible = copy.deepcopy(dict(recipe))
    for entry, is_hidden in zip(_of_rows(visible), hidden, strict=False):
        entry.update({"fingerprint": WITHHELD} if is_hidden else {})
    return visible


def _of_rows(manifest: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the entries of a manifest that may hold checksums of rows: its data, rows from memory, data of a merge."""
    data = manifest.get("data")
    if not isinstance(data, dict):
        return []
    lists = [data.get(key) for key in ("memory", "origins")]
    inner = [part for parts in lists if isinstance(parts, list) for part in parts]
    return [data, *(part for part in inner if isinstance(part, dict))]
