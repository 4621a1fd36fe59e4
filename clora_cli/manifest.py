"""``clora.json``: where an adapter comes from (layer L1)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from clora_cli.errors import ArtifactError
from clora_cli.files import read_json, sha256, stand_in

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
_REQUIRED_INSIDE: Mapping[str, type] = {
    "base_model.id": str,
    "data.name": str,
    "method.name": str,
    "method.combine": str,
    "method.options": dict,
}
# A merge has none of these: it was not trained, and may be of folders that record no fingerprint.
_OF_A_TRAINING: Mapping[str, type] = {
    "base_model.fingerprint": str,
    "data.source": str,
    "data.fingerprint": str,
    "data.template": str,
    "data.metric": str,
    "data.train_rows": int,
}
_OPTIONAL: Mapping[str, type] = {"scores": dict, "origin": dict, "trim": dict, "versions": dict, "argv": list}


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
            if told := stand_in(path / name):
                raise ArtifactError(f"{path / name} {told}")
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
    wrong = [key for key, kind in _REQUIRED.items() if not _is(manifest[key], kind)]
    wrong = wrong or list(_odd(manifest))
    if wrong:
        raise ArtifactError(
            f"manifest {path} is damaged: {wrong[0]} is not what it should be; restore it or make it again"
        )


def _odd(manifest: Mapping[str, Any]) -> Iterator[str]:
    """Yield the names of entries that are missing or of another type, inside a manifest's required keys."""
    needed = _REQUIRED_INSIDE if "merged" in manifest["data"] else {**_REQUIRED_INSIDE, **_OF_A_TRAINING}
    for name, kind in needed.items():
        outer, inner = name.split(".")
        if not _is(manifest[outer].get(inner), kind):
            yield name
    if manifest["stage"] < 1:
        yield "stage"
    for parent in manifest["parents"]:
        if not _is(parent, dict) or not all(_is(parent.get(key), str) for key in ("task", "sha256")):
            yield "parents"
    for name in manifest["files"]:
        if Path(name).name != name:
            yield "files"
    for name, kind in _OPTIONAL.items():
        if name in manifest and not _is(manifest[name], kind):
            yield name


def _is(value: object, kind: type) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)
