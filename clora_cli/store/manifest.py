"""``clora.json``: where an adapter comes from (layer L1)."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from clora_cli.base.errors import ArtifactError
from clora_cli.base.files import read_json, sha256, stand_in, to_json, write_text
from clora_cli.base.intake import reason
from clora_cli.base.records import (
    Check,
    any_text,
    each,
    flag,
    is_table,
    listed,
    made_of,
    maybe,
    name,
    number,
    whole,
    wrong,
)

__all__ = ["MANIFEST", "SCHEMA", "WITHHELD", "as_withheld", "read_manifest", "withhold"]

SCHEMA = "clora.adapter/1"
MANIFEST = "clora.json"
WITHHELD = ""  # a checksum of rows that a private distribution of them is not to stand beside
_SEED = whole(-(1 << 63), (1 << 63) - 1)
_PARENT = made_of({"task": name, "sha256": name})
_WANTED: Mapping[str, Check] = {
    "base_model": is_table,
    "data": is_table,
    "files": each(name),
    "lora": is_table,
    "method": is_table,
    "parents": listed(_PARENT),
    "seed": _SEED,
    "stage": whole(1),
    "task": name,
    "training": is_table,
    "base_model.id": name,
    "base_model.fingerprint?": name,
    "base_model.kind?": name,
    "base_model.revision?": maybe(name),
    "base_model.settings?": is_table,
    "base_model.weights?": any_text,
    "data.name": name,
    "data.source?": any_text,
    "data.fingerprint?": name,
    "data.given?": any_text,
    "data.columns?": each(name),
    "data.labels?": listed(any_text),
    "data.merged?": listed(name),
    "data.metric?": name,
    "data.memory?": listed(is_table),
    "data.notes?": listed(any_text),
    "data.template?": name,
    "data.train_rows?": whole(),
    "lora.alpha?": number(),
    "lora.dropout?": number(),
    "lora.dtype?": name,
    "lora.fan_in_fan_out?": flag,
    "lora.form?": name,
    "lora.rank?": whole(),
    "lora.target_modules?": listed(any_text),
    "method.name": name,
    "method.combine": name,
    "method.options": each(is_table),
    "method.past?": name,
    "method.start?": name,
    "method.route?": is_table,
    "training.max_length?": whole(1),
    "training.train_rows?": whole(),
    "argv?": listed(any_text),
    "origin?": made_of({"package": name, "stage": maybe(whole()), "task": name}),
    "scores?": each(is_table),
    "trim?": made_of({"by": name, "source": name, "earlier": listed(made_of({"source": name}))}),
    "versions?": each(name),
}
# A merge has none of these: it was not trained, and may be of folders that record no fingerprint.
_OF_A_TRAINING: tuple[str, ...] = (
    "base_model.fingerprint",
    "data.source",
    "data.fingerprint",
    "data.template",
    "data.metric",
)
_OF_A_TRAINING += ("data.train_rows",)


def read_manifest(path: Path) -> dict[str, Any]:
    """Read and check a manifest and the files that it lists.

    Raises:
        ArtifactError: If it is damaged or of a newer format, or a file is not the one that was written.
    """
    manifest = read_json(path / MANIFEST, "manifest")
    schema = manifest.get("schema")
    if schema != SCHEMA:
        raise ArtifactError(
            f"adapter {path} has format {schema!r}, this version reads {SCHEMA!r}; upgrade clora or make it again"
        )
    missing = [key for key in _WANTED if "." not in key and not key.endswith("?") and key not in manifest]
    if missing:
        raise ArtifactError(
            f"manifest {path / MANIFEST} is damaged: no {', '.join(missing)}; restore it or make it again"
        )
    if odd := _odd(manifest):
        raise ArtifactError(
            f"manifest {path / MANIFEST} is damaged: {odd} is not what it should be; restore it or make it again"
        )
    for file, digest in manifest["files"].items():
        if not (path / file).is_file():
            raise ArtifactError(f"adapter {path} is damaged: {file} is missing; restore it or train the adapter again")
        if _digest(path / file) != digest:
            if told := stand_in(path / file):
                raise ArtifactError(f"{path / file} {told}")
            raise ArtifactError(
                f"adapter {path} is damaged: {file} is not the file that was written; restore it or train again"
            )
    return manifest


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
    if not (folder / MANIFEST).exists():
        return False
    manifest = read_json(folder / MANIFEST, "manifest")
    entries = _of_rows(manifest)
    told = [entry for entry in entries if entry.get("fingerprint") in fingerprints]
    for entry in told:
        entry["fingerprint"] = WITHHELD
    if told:
        write_text(folder / MANIFEST, to_json(manifest))
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


def _digest(path: Path) -> str:
    try:
        return sha256(path)
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read: {reason(error)}; make it readable") from error


def _odd(manifest: Mapping[str, Any]) -> str | None:
    """Return the name of an entry that is missing or not what it should be."""
    if odd := wrong(manifest, _WANTED):
        return odd
    needed = () if "merged" in manifest["data"] else _OF_A_TRAINING
    if odd := wrong(manifest, dict.fromkeys(needed, lambda value: True)):
        return odd
    return "files" if any(Path(file).name != file for file in manifest["files"]) else None
