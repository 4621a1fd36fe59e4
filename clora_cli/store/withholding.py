"""Checksums of rows that no manifest is to hold beside a private distribution of them (layer L1)."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from clora_cli.base.files import read_json, to_json, write_text

__all__ = ["WITHHELD", "as_withheld", "withhold"]

WITHHELD = ""  # what stands in a checksum's place
_MANIFEST = "clora.json"


def withhold(folder: Path, fingerprints: Collection[str]) -> bool:
    """Take checksums of rows out of an adapter's manifest: by them, who knows all rows but one could test a guess of it.

    Args:
        folder: The adapter folder; one without a manifest has nothing to withhold.
        fingerprints: Those of the data that a private distribution was taken of.

    Returns:
        Whether there were any.

    Raises:
        ArtifactError: If the manifest is damaged.
        CloraError: If it cannot be written; it is then as it was.
    """
    if not (folder / _MANIFEST).exists():
        return False
    manifest = read_json(folder / _MANIFEST, "manifest")
    entries = _of_rows(manifest)
    told = [entry for entry in entries if entry.get("fingerprint") in fingerprints]
    for entry in told:
        entry["fingerprint"] = WITHHELD
    if told:
        write_text(folder / _MANIFEST, to_json(manifest))
    return bool(told)


def as_withheld(recipe: Mapping[str, Any], manifest: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a recipe without the checksums of rows that a manifest withholds, to compare the two."""
    hidden = [entry.get("fingerprint") == WITHHELD for entry in _of_rows(manifest)]
    if not any(hidden):
        return recipe
    known = copy.deepcopy(dict(recipe))
    for entry, is_hidden in zip(_of_rows(known), hidden, strict=False):
        entry.update({"fingerprint": WITHHELD} if is_hidden else {})
    return known


def _of_rows(manifest: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the entries of a manifest that may hold a checksum of rows: its data, those of a memory, those of a merge."""
    data = manifest.get("data")
    if not isinstance(data, dict):
        return []
    lists = [data.get(key) for key in ("memory", "origins")]
    found = [entry for entries in lists if isinstance(entries, list) for entry in entries]
    return [data, *(entry for entry in found if isinstance(entry, dict))]
