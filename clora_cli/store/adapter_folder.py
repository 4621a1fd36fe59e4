"""One adapter folder on disk (layer L1): read, validate, write.

An adapter folder is a PEFT LoRA folder, with ``clora.json`` beside it when clora made it.
``docs/package-format.md`` is the specification.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clora_cli.base.errors import ArtifactError, MismatchError, OptionError
from clora_cli.base.files import differences, new_folder, sha256, to_json
from clora_cli.base.legible import is_legible
from clora_cli.store.adapter_config import CONFIG, read_config
from clora_cli.store.conversion import conversion
from clora_cli.store.distribution import read_record
from clora_cli.store.manifest import MANIFEST, Manifest, manifest_text
from clora_cli.store.side_files import FEATURES, STATE, former_name, side_file
from clora_cli.store.steady import Identity, identity, steady, unchanged
from clora_cli.store.tensors import (
    check_numbers,
    check_written,
    checked,
    each_tensor,
    read_tensors,
    save_tensors,
    stream_tensors,
)

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from clora_cli.algebra.lora import Factor
    from clora_cli.model.places import Places
    from clora_cli.store.distribution import Distribution

__all__ = [
    "WEIGHTS",
    "AdapterFolder",
    "check_place",
    "finished",
    "is_adapter",
    "read_adapter",
    "read_once",
    "write_adapter",
    "write_dense",
]

WEIGHTS = "adapter_model.safetensors"
DENSE = "deltas.safetensors"


@dataclass(frozen=True, eq=False)
class AdapterFolder:
    """One adapter on disk: its settings are read and checked, its tensors are read when asked for.

    Attributes:
        path: The folder.
        config: ``adapter_config.json``; empty for dense deltas.
        manifest: ``clora.json``; None for a bare PEFT folder.
        places: The layers of the base model that it is used with, whose names its sites then have; None without one.
        seen: What told this folder from any other at its path when it was read.
    """

    path: Path
    config: Mapping[str, Any]
    manifest: Manifest | None
    places: Places | None = None
    seen: Identity | None = None

    def on(self, places: Places) -> AdapterFolder:
        """Return the adapter as it is used with a base model: under the model's own names, and compared with its weights."""
        return dataclasses.replace(self, places=places)

    @property
    def task(self) -> str:
        """The task's name; a bare PEFT folder's own name."""
        return self.path.name if self.manifest is None else self.manifest.task

    @property
    def stage(self) -> int | None:
        """Position in the sequence of tasks, from 1; None for a bare PEFT folder."""
        return None if self.manifest is None else self.manifest.stage

    @property
    def base(self) -> Mapping[str, Any]:
        """Base model: id, revision, fingerprint, as far as the folder records them; a bare PEFT folder's distribution does."""
        if self.manifest is not None:
            return dict(self.manifest.base_model.raw)
        known = {"id": self.config.get("base_model_name_or_path")}
        with contextlib.suppress(ArtifactError):  # no distribution, or a damaged one, which is then made again
            known |= read_record(self.features).base_model.raw
        return known

    @property
    def combine(self) -> str | None:
        """How the adapter's method combines adapters at evaluation; None for a bare PEFT folder."""
        return None if self.manifest is None else self.manifest.method.combine

    @property
    def is_dense(self) -> bool:
        """Whether the folder holds dense deltas, as a merge may leave them, instead of low-rank factors."""
        return not self.config

    @property
    def weights(self) -> Path:
        """The tensor file that makes the adapter what it is."""
        return self.path / (DENSE if self.is_dense else WEIGHTS)

    @property
    def data_names(self) -> list[str]:
        """What ``--data`` names its tasks: one, or all those of a merge; none for a bare PEFT folder."""
        return [] if self.manifest is None else self.manifest.data_names

    def changes(self, recipe: Mapping[str, Any]) -> str:
        """Name what differs between a recipe and what made this adapter; nothing if it would make the same one."""
        return differences(recipe, {}) if self.manifest is None else self.manifest.changes(recipe)

    @property
    def files(self) -> Mapping[str, str]:
        """The checksums that its manifest lists, by file; none of a bare PEFT folder."""
        return {} if self.manifest is None else self.manifest.files

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the tensor file: what ``parents`` refer to; reading a manifest has compared its own with the file."""
        if kept := self.files.get(self.weights.name):
            return kept
        with unchanged(self.path, self.seen):
            return sha256(self.weights)

    def deltas(self, *, compare: bool = True) -> Mapping[str, Factor | Tensor]:
        """Read what the adapter adds, by site: factors, as ``factors`` reads them, or dense deltas of shape (out, in).

        Raises:
            CloraError: As ``factors``.
        """
        from clora_cli.store.adapter_tensors import read_dense

        if not self.is_dense:
            return self.factors(compare=compare)
        with unchanged(self.path, self.seen):
            found = read_dense(self.weights)
        check_numbers(found.items(), self.path)
        return self._named(found)

    def factors(self, *, compare: bool = True) -> dict[str, Factor]:
        """Read the adapter's factors, by site, as stored; 8-bit ones as float32.

        Args:
            compare: Whether weights of the base model that the file holds too must be what the base model has, so that the
                factors are all that the adapter changes; else they are passed over.

        Raises:
            ArtifactError: If the tensor file is missing, truncated or incomplete.
            MismatchError: If it holds more than plain LoRA factors, or does not fit the base model that it is used with.
        """
        from clora_cli.algebra.lora import config_problem
        from clora_cli.store.adapter_tensors import read_factors

        if self.is_dense:
            raise MismatchError(
                f"{self.path} holds dense deltas, no low-rank factors; merge with --rank to have factors",
                code="dense-deltas-no-factors",
            )
        if problem := config_problem(self.config):
            raise MismatchError(f"adapter {self.path} cannot be used: {problem}", code="adapter-not-plain-lora")
        with unchanged(self.path, self.seen):
            factors = read_factors(self.weights, self.config, self.places, compare=compare)
        check_numbers(_numbers(factors), self.path)
        return self._named(factors)

    def check_numbers(self) -> None:
        """Read every number once and keep none, for who passes an adapter on without using it.

        Raises:
            ArtifactError: If the tensor file is damaged, or a number is not finite or beyond what training leaves.
        """
        check_numbers(each_tensor(self.weights), self.path)

    def state(self) -> dict[str, Tensor]:
        """Read what the adapter's method kept for later, by ``<what>/<site>`` where it is a site's; empty if it kept nothing.

        Raises:
            ArtifactError: If the file is damaged, or has numbers that are not finite.
        """
        path = side_file(self.path, STATE)
        with unchanged(self.path, self.seen):
            found = read_tensors(path) if path.exists() else {}
        check_numbers(found.items(), self.path, sys.float_info.max)
        return found if self.places is None else {self._state_key(key): tensor for key, tensor in found.items()}

    @property
    def features(self) -> Path:
        """Where the adapter's feature distribution is, or would be."""
        return side_file(self.path, FEATURES)

    def give_features(self, distribution: Distribution) -> None:
        """Give the adapter a feature distribution, in the place of the one that it has.

        Raises:
            CloraError: If it cannot be written; what was there stays.
        """
        distribution.write(self.path / FEATURES)
        (self.path / former_name(FEATURES)).unlink(missing_ok=True)

    @cached_property
    def embeddings(self) -> frozenset[str]:
        """The sites that are tables of embeddings, whose factors have names of their own in PEFT's files."""
        from clora_cli.store.adapter_tensors import names_in

        sites = set() if self.is_dense else {name.site for name in names_in(self.weights) if name.embedding}
        return frozenset(sites if self.places is None else {self.places.place(site).site for site in sites})

    def _state_key(self, key: str) -> str:
        what, slash, site = key.partition("/")
        return f"{what}/{self.places.place(site, self.path).site}" if slash and self.places else key

    def _named(self, deltas: Mapping[str, Any]) -> dict[str, Any]:
        return dict(deltas) if self.places is None else self.places.reconcile(deltas, self.path)


def _numbers(factors: Mapping[str, Factor]) -> Iterator[tuple[str, Tensor]]:
    from clora_cli.algebra.lora import factor_keys

    for site, factor in factors.items():
        yield from zip(factor_keys(site), (factor.a, factor.b), strict=True)


def is_adapter(path: Path) -> bool:
    """Tell whether a path is an adapter folder."""
    return (path / CONFIG).is_file() or (path / DENSE).is_file()


def read_adapter(path: Path) -> AdapterFolder:
    """Read and check one adapter folder, all of it as it was at one moment.

    Raises:
        ArtifactError: If it is missing, damaged, of a newer format, or its files are not those that were written.
    """
    return steady(lambda: read_once(path), lambda: identity(path), [path.parent])


def read_once(path: Path) -> AdapterFolder:
    """Read and check one adapter folder, for a caller who looks whether it was replaced meanwhile.

    Raises:
        ArtifactError: As ``read_adapter``.
    """
    if not path.is_dir():
        raise ArtifactError(f"adapter folder {path} does not exist", code="adapter-missing")
    if not is_legible(path.name):
        raise ArtifactError(
            f"the name of adapter folder {path} has letters that cannot be shown; rename it", code="name-not-legible"
        )
    if not is_adapter(path):
        raise ArtifactError(f"{path} is not an adapter folder: it has no {CONFIG}", code="not-an-adapter-folder")
    seen, dense = identity(path), not (path / CONFIG).is_file()
    config = {} if dense else read_config(path / CONFIG)
    if not dense and not (path / WEIGHTS).is_file():
        raise ArtifactError(f"adapter {path} has no {WEIGHTS}{conversion(path)}", code="adapter-weights-missing")
    recorded = os.path.lexists(path / MANIFEST)  # also a link that leads nowhere: it is damage, no bare folder
    if dense and not recorded:
        raise ArtifactError(
            f"adapter {path} has dense deltas and no {MANIFEST}; restore it or make the merge again",
            code="dense-deltas-without-manifest",
        )
    manifest = Manifest.read(path) if recorded else None
    return AdapterFolder(path, config, manifest, seen=seen)


def check_place(target: Path) -> None:
    """Check that a command may write an adapter folder at a place, or replace what is there.

    Raises:
        OptionError: If there is something that is no adapter folder, such as a package: no option replaces that.
    """
    if target.exists() and not is_adapter(target):
        raise OptionError(
            f"{target} exists and is no adapter folder; choose another --out", code="output-not-an-adapter"
        )


def finished(target: Path, recipe: Mapping[str, Any]) -> AdapterFolder | None:
    """Return the folder at a place if it was made by this very recipe; None if nothing is there.

    Args:
        target: Where a command would write.
        recipe: The manifest's entries that decide its result.

    Raises:
        ArtifactError: If what is there is damaged.
        OptionError: If it is no adapter folder, or another recipe made it.
    """
    check_place(target)
    if not target.exists():
        return None
    folder = read_adapter(target)
    if changed := folder.changes(recipe):
        raise OptionError(
            f"{target} exists and was made differently ({changed}); pass --force to replace it or --out to keep it",
            code="output-made-differently",
        )
    return folder


def write_adapter(
    target: Path,
    tensors: Mapping[str, Tensor],
    config: Mapping[str, Any],
    manifest: Mapping[str, Any],
    texts: Mapping[str, str],
    state: Mapping[str, Tensor] | None = None,
    distribution: Distribution | None = None,
    places: Places | None = None,
) -> AdapterFolder:
    """Write one adapter folder atomically and read it back.

    Args:
        target: The folder; replaced if it exists.
        tensors: PEFT's tensor names to LoRA factors.
        config: ``adapter_config.json``.
        manifest: ``clora.json`` but for ``schema`` and ``files``, which are added.
        texts: Further files by name, such as the model card.
        state: What the method needs later.
        distribution: Its feature distribution, if it has one.
        places: The layers of its base model, with which it is compared as it is when it is used.

    Raises:
        CloraError: If a number is not finite, no command could read it again or use it, or the folder cannot be written;
            what was there stays.
    """
    check_written(target, tensors.items())
    with _member(target, manifest, texts) as folder:
        save_tensors(folder / WEIGHTS, tensors)
        if state:
            save_tensors(folder / STATE, state)
        if distribution is not None:
            (folder / FEATURES).write_bytes(distribution.to_bytes())
        (folder / CONFIG).write_text(to_json(config), encoding="utf-8")
        AdapterFolder(folder, config, None, places).factors()  # what no command could read again never gets its name
    return read_adapter(target)


def write_dense(
    target: Path,
    shapes: Mapping[str, tuple[int, ...]],
    dtype: torch.dtype,
    deltas: Iterable[tuple[str, Tensor]],
    manifest: Mapping[str, Any],
    texts: Mapping[str, str],
) -> AdapterFolder:
    """Write a folder of dense deltas atomically, one delta at a time, and read it back.

    Args:
        target: The folder; replaced if it exists.
        shapes: Site to (out, in), in the order in which the deltas come.
        dtype: What to store.
        deltas: Site and delta.
        manifest: As for ``write_adapter``.
        texts: As for ``write_adapter``.

    Raises:
        CloraError: If a number is not finite, or the folder cannot be written; what was there stays.
    """
    with _member(target, manifest, texts) as folder:
        stream_tensors(folder / DENSE, shapes, dtype, checked(target, deltas))
    return read_adapter(target)


@contextlib.contextmanager
def _member(target: Path, manifest: Mapping[str, Any], texts: Mapping[str, str]) -> Iterator[Path]:
    """Give a folder to fill; then add the texts, and last of all the manifest: a folder that has one had everything else."""
    with new_folder(target) as folder:
        yield folder
        for name, text in texts.items():
            (folder / name).write_text(text, encoding="utf-8")
        # A feature distribution may be replaced later: it carries a checksum of its own.
        files = {file.name: sha256(file) for file in sorted(folder.iterdir()) if file.name != FEATURES}
        (folder / MANIFEST).write_text(manifest_text(manifest, files), encoding="utf-8")
