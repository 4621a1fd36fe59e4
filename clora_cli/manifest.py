"""``clora.json``: where an adapter comes from (layer L1)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clora_cli.errors import ArtifactError
from clora_cli.files import read_json, sha256

__all__ = ["MANIFEST", "SCHEMA", "read_manifest"]

SCHEMA = "clora.adapter/1"
MANIFEST = "clora.json"
_REQUIRED: Mapping[str, type] = {
    "base_model": dict,
    "data": dict,
    "files": dict,
    "lora": dict,
    "method": dict,
    "parents": list,
    "seed": int,
    "stage": int,
    "task": str,
    "training": dict,
}
_REQUIRED_INSIDE = (
    ("base_model", "id"),
    ("data", "name"),
    ("method", "name"),
    ("method", "combine"),
)


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
    missing = [key for key in _REQUIRED if key not in manifest]
    if missing:
        raise ArtifactError(
            f"manifest {path / MANIFEST} is damaged: no {', '.join(missing)}; restore it or make it again"
        )
    _check_kinds(path / MANIFEST, manifest)
    for name, digest in manifest["files"].items():
        if not (path / name).is_file():
            raise ArtifactError(f"adapter {path} is damaged: {name} is missing; restore it or train the adapter again")
        if _digest(path / name) != digest:
            raise ArtifactError(
                f"adapter {path} is damaged: {name} is not the file that was written; restore it or train again"
            )
    return manifest


def _digest(path: Path) -> str:
    try:
        return sha256(path)
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read: {error.strerror or error}; make it readable") from error


def _check_kinds(path: Path, manifest: Mapping[str, Any]) -> None:
    wrong = [key for key, kind in _REQUIRED.items() if not isinstance(manifest[key], kind)]
    # A merge of folders that record no fingerprint has none either.
    needed = (*_REQUIRED_INSIDE, *(() if wrong or "merged" in manifest["data"] else (("base_model", "fingerprint"),)))
    wrong = wrong or [f"{outer}.{inner}" for outer, inner in needed if not isinstance(manifest[outer].get(inner), str)]
    if wrong:
        raise ArtifactError(
            f"manifest {path} is damaged: {wrong[0]} is not what it should be; restore it or make it again"
        )
