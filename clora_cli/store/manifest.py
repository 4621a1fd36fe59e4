"""``clora.json``: the origin of an adapter (layer L1)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clora_cli.base import records
from clora_cli.base.entries import (
    Record,
    a_line,
    a_table,
    a_whole,
    records_of,
    some,
    texts,
    the_record,
)
from clora_cli.base.errors import ArtifactError
from clora_cli.base.files import differences, read_json, sha256, stand_in, to_json
from clora_cli.base.intake import reason
from clora_cli.model.base_model import same_base
from clora_cli.store.manifest_parts import (
    MANIFEST,
    BaseRecord,
    DataRecord,
    HeadRecord,
    LoraRecord,
    MethodRecord,
    OriginRecord,
    ParentRecord,
    TrainingRecord,
    TrimRecord,
)
from clora_cli.store.withholding import as_withheld

__all__ = [
    "MANIFEST",
    "SCHEMA",
    "Manifest",
    "manifest_text",
]

SCHEMA = "clora.adapter/1"


@dataclass(frozen=True)
class Manifest(Record):
    """``clora.json``, but for ``schema``."""

    task = a_line("the task's name")
    stage = a_whole("position in the sequence of tasks, from 1", 1)
    method = the_record(MethodRecord, "how it was trained")
    base_model = the_record(BaseRecord, "the base model")
    lora = the_record(LoraRecord, "its form")
    parents = records_of(ParentRecord, "`task` and `sha256` of each adapter that this one builds on")
    data = the_record(DataRecord, "what it was trained on")
    head = some(
        records_of(
            HeadRecord,
            "of an encoder's adapter: `task` and `labels` of its classes, in the order of its output layer's rows",
        )
    )
    training = the_record(TrainingRecord, "the options that change the numbers")
    seed = a_whole("as asked for; each task mixes its name into it", -(1 << 63), (1 << 63) - 1)
    files = a_table("file name to SHA-256", records.name)
    scores = some(
        a_table(
            "`last_step`: loss and penalties of the last optimizer step; `relations` to earlier adapters; `subspace`: of a "
            "part of a shared LoRA, the shares of all entries that it owns and that stay idle; `beside_the_lora`: `trained`, "
            "how many numbers a method trained beside the factors; `rehearsed`: of each earlier task the `rows` that the method made "
            "itself, and how many it `wanted`",
            records.is_table,
        )
    )
    trim = some(
        the_record(
            TrimRecord,
            "of a trimmed adapter: `by`, `options`, `on`, `scope`, `seed`, `reference` (tasks and SHA-256), `source` (SHA-256 "
            "of the weights that were trimmed), `density` (side to share), `earlier` (former trims, oldest first)",
            apart=False,
        )
    )
    origin = some(
        the_record(
            OriginRecord,
            "of a member of a union: `package` (its folder's name), `stage` and `task` that it had where it first was",
            apart=False,
        )
    )
    argv = some(texts("the command line"))
    versions = some(a_table("clora, Python and the libraries", records.name))

    @classmethod
    def read(cls, path: Path) -> Manifest:
        """Read and check an adapter folder's manifest and the files that it lists.

        Raises:
            ArtifactError: If it is damaged or of a newer format, or a file is not the one that was written.
        """
        manifest = read_json(path / MANIFEST, "manifest")
        schema = manifest.get("schema")
        if schema != SCHEMA:
            raise ArtifactError(
                f"adapter {path} has format {schema!r}, this version reads {SCHEMA!r}; upgrade clora or make it again",
                code="format-not-supported",
            )
        missing = [entry.key for entry in cls.entries() if not entry.optional and entry.key not in manifest]
        if missing:
            raise ArtifactError(
                f"manifest {path / MANIFEST} is damaged: no {', '.join(missing)}; restore it or make it again",
                code="manifest-damaged",
            )
        if odd := _odd(manifest):
            raise ArtifactError(
                f"manifest {path / MANIFEST} is damaged: {odd} has a wrong value; restore it or make it again",
                code="manifest-damaged",
            )
        for file, digest in manifest["files"].items():
            place = path / file
            if not place.is_file():
                raise ArtifactError(
                    f"adapter {path} is damaged: {file} is missing; restore it or train the adapter again",
                    code="adapter-file-missing",
                )
            if _digest(place) != digest:
                if problem := stand_in(place):
                    raise ArtifactError(f"{place} {problem}", code="file-is-stand-in")
                raise ArtifactError(
                    f"adapter {path} is damaged: {file} is not the file that was written; restore it or train again",
                    code="adapter-file-changed",
                )
        return cls(manifest)

    @property
    def is_merge(self) -> bool:
        """Whether it was merged, not trained."""
        return "merged" in self.data.raw

    @property
    def data_names(self) -> list[str]:
        """The names that ``--data`` has for its tasks: one, or those of all merged adapters."""
        return list(self.data.merged or [self.data.name])

    def changes(self, recipe: Mapping[str, Any]) -> str:
        """Name the differences between a recipe and the one that made this adapter; empty if it would make the same one.

        A base model that was saved again is still the same, and a withheld checksum of rows equals any.
        """
        base, own = recipe.get("base_model", {}), self.base_model.raw
        same = "fingerprint" in base and same_base(base, own)
        return differences(as_withheld({**recipe, "base_model": own} if same else recipe, self.raw), self.raw)


# Entries that a merge lacks: it was not trained, and may combine folders that record no fingerprint.
_OF_A_TRAINING: tuple[str, ...] = (
    "base_model.fingerprint",
    "data.source",
    "data.fingerprint",
    "data.template",
    "data.metric",
)
_OF_A_TRAINING += ("data.train_rows",)


def manifest_text(entries: Mapping[str, Any], files: Mapping[str, str]) -> str:
    """Return the content of ``clora.json``: the entries of a new adapter, with the checksums of its files."""
    return to_json({**entries, "schema": SCHEMA, "files": files})


def _digest(path: Path) -> str:
    try:
        return sha256(path)
    except OSError as error:
        raise ArtifactError(
            f"{path} cannot be read: {reason(error)}; make it readable", code="path-unreadable"
        ) from error


def _odd(manifest: Mapping[str, Any]) -> str | None:
    """Return the name of an entry that is missing or has a wrong value."""
    if odd := Manifest.wrong(manifest):
        return odd
    needed = () if "merged" in manifest["data"] else _OF_A_TRAINING
    if odd := records.wrong(manifest, dict.fromkeys(needed, lambda value: True)):
        return odd
    return "files" if any(Path(file).name != file for file in manifest["files"]) else None
