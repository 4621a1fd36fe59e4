"""One adapter folder on disk (layer L1): read, validate, write.

An adapter folder is a PEFT LoRA folder, or one of soft prompts, with ``clora.json`` beside it when clora made it.
``docs/package-format.md`` is the specification.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clora_cli.base.errors import ArtifactError, MismatchError
from clora_cli.base.files import differences, sha256
from clora_cli.base.legible import is_legible
from clora_cli.store.adapter_config import CONFIG, read_config
from clora_cli.store.conversion import conversion
from clora_cli.store.distribution import read_record
from clora_cli.store.manifest import MANIFEST, Manifest
from clora_cli.store.side_files import FEATURES, HEAD, STATE, former_name, side_file
from clora_cli.store.soft_prompt import is_prompt, no_deltas, read_prompt
from clora_cli.store.steady import Identity, identity, steady, unchanged
from clora_cli.store.tensors import (
    check_numbers,
    each_tensor,
    read_tensors,
)

if TYPE_CHECKING:
    from torch import Tensor

    from clora_cli.algebra.lora import Factor
    from clora_cli.model.places import Places
    from clora_cli.store.distribution import Distribution

__all__ = [
    "WEIGHTS",
    "AdapterFolder",
    "is_adapter",
    "read_adapter",
    "read_once",
]

WEIGHTS = "adapter_model.safetensors"
DENSE = "deltas.safetensors"


@dataclass(frozen=True, eq=False)
class AdapterFolder:
    """One adapter on disk: its settings are read and checked at once, its tensors on demand.

    Attributes:
        path: The folder.
        config: ``adapter_config.json``; empty for dense deltas.
        manifest: ``clora.json``; None for a bare PEFT folder.
        places: The layers of the base model that it is used with, which then name its sites; None without one.
        seen: The folder's identity when it was read, to notice if another takes its path.
    """

    path: Path
    config: Mapping[str, Any]
    manifest: Manifest | None
    places: Places | None = None
    seen: Identity | None = None

    def on(self, places: Places) -> AdapterFolder:
        """Return the adapter for use with a base model: sites named as the model names them, and checked against its weights."""
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
        """The base model's id, revision and fingerprint, as far as recorded; for a bare PEFT folder in its distribution."""
        if self.manifest is not None:
            return dict(self.manifest.base_model.raw)
        base = {"id": self.config.get("base_model_name_or_path")}
        with contextlib.suppress(ArtifactError):  # no distribution, or a damaged one, which will be made again
            base |= read_record(self.features).base_model.raw
        return base

    @property
    def combine(self) -> str | None:
        """How the adapter's method combines adapters at evaluation; None for a bare PEFT folder."""
        return None if self.manifest is None else self.manifest.method.combine

    @property
    def is_dense(self) -> bool:
        """Whether the folder holds dense deltas, as some merges do, instead of low-rank factors."""
        return not self.config

    @property
    def is_prompt(self) -> bool:
        """Whether the folder holds soft prompts, as PEFT's prompt tuning makes them, instead of deltas."""
        return is_prompt(self.config)

    @property
    def weights(self) -> Path:
        """The file of the adapter's weights."""
        return self.path / (DENSE if self.is_dense else WEIGHTS)

    @property
    def data_names(self) -> list[str]:
        """The names that ``--data`` has for its tasks: one, or those of all merged adapters; none for a bare PEFT folder."""
        return [] if self.manifest is None else self.manifest.data_names

    def changes(self, recipe: Mapping[str, Any]) -> str:
        """Name the differences between a recipe and the one that made this adapter; empty if it would make the same one."""
        return differences(recipe, {}) if self.manifest is None else self.manifest.changes(recipe)

    @property
    def files(self) -> Mapping[str, str]:
        """The checksums that its manifest lists, by file; none for a bare PEFT folder."""
        return {} if self.manifest is None else self.manifest.files

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the tensor file, to which ``parents`` refer; if the manifest lists one, reading has compared it already."""
        if kept := self.files.get(self.weights.name):
            return kept
        with unchanged(self.path, self.seen):
            return sha256(self.weights)

    def deltas(self, *, compare: bool = True) -> Mapping[str, Factor | Tensor]:
        """Read the adapter's deltas by site: factors, as ``factors`` reads them, or dense matrices of shape (out, in).

        Raises:
            CloraError: As ``factors``.
        """
        from clora_cli.store.adapter_tensors import read_dense

        if not self.is_dense:
            return self.factors(compare=compare)
        with unchanged(self.path, self.seen):
            deltas = read_dense(self.weights)
        check_numbers(deltas.items(), self.path)
        return self._named(deltas)

    def factors(self, *, compare: bool = True, at_once: bool = False) -> dict[str, Factor]:
        """Read the adapter's factors, by site, as stored; 8-bit ones as float32.

        Args:
            compare: Whether to check that base-model weights stored in the file equal those of the base model, so that the
                factors are the adapter's only change; otherwise they are ignored.
            at_once: As for ``read_tensors``.

        Raises:
            ArtifactError: If the tensor file is missing, truncated or incomplete.
            MismatchError: If it holds no factors or more than those, or does not fit the base model that it is used with.
        """
        from clora_cli.store.adapter_tensors import read_factors

        if self.is_prompt:
            raise no_deltas(self.path)
        if self.is_dense:
            raise MismatchError(
                f"{self.path} holds dense deltas, no low-rank factors; merge with --rank to have factors",
                code="dense-deltas-no-factors",
            )
        self.check_plain()
        with unchanged(self.path, self.seen):
            factors = read_factors(self.weights, self.config, self.places, compare=compare, at_once=at_once)
        check_numbers(_numbers(factors), self.path)
        return self._named(factors)

    def check_plain(self) -> None:
        """Refuse a PEFT folder that is more than a LoRA with, at most, a classification head.

        Raises:
            MismatchError: If it is.
        """
        from clora_cli.algebra.lora import config_problem

        if problem := config_problem(self.config):
            raise MismatchError(f"adapter {self.path} cannot be used: {problem}", code="adapter-not-plain-lora")

    def prompt(self) -> Tensor:
        """Read the vectors of the virtual tokens of an adapter that ``is_prompt``, shape (token, hidden), float32.

        Raises:
            ArtifactError: If the tensor file is missing or damaged.
            MismatchError: If it holds more than soft prompts.
        """
        with unchanged(self.path, self.seen):
            found = read_prompt(self.weights, self.config)
        check_numbers([("the soft prompt", found)], self.path)
        return found.float()

    def check_numbers(self) -> None:
        """Check every number and keep none, for callers that pass an adapter on without using it.

        Raises:
            ArtifactError: If the tensor file is damaged, or a number is not finite or absurdly large.
        """
        for path in (self.weights, self.path / HEAD):
            if path == self.weights or path.exists():
                check_numbers(each_tensor(path), self.path)

    def state(self, *, at_once: bool = False) -> dict[str, Tensor]:
        """Read the tensors that the adapter's method stored, ``<what>/<site>`` for those of a site; empty if there are none.

        Args:
            at_once: As for ``read_tensors``.

        Raises:
            ArtifactError: If the file is damaged, or has numbers that are not finite.
        """
        path = side_file(self.path, STATE)
        with unchanged(self.path, self.seen):
            tensors = read_tensors(path, at_once=at_once) if path.exists() else {}
        check_numbers(tensors.items(), self.path, sys.float_info.max)
        return tensors if self.places is None else {self._state_key(key): tensor for key, tensor in tensors.items()}

    @property
    def features(self) -> Path:
        """The path of the adapter's feature distribution, whether or not it exists."""
        return side_file(self.path, FEATURES)

    def give_features(self, distribution: Distribution) -> None:
        """Give the adapter a feature distribution, replacing any that it has.

        Raises:
            CloraError: If it cannot be written; what was there stays.
        """
        distribution.write(self.path / FEATURES)
        (self.path / former_name(FEATURES)).unlink(missing_ok=True)

    @cached_property
    def sites(self) -> Mapping[str, bool]:
        """The layers that factors are for, named as the base model that it is used with names them; and whether each is an embedding."""
        from clora_cli.store.adapter_tensors import names_in

        names = () if self.is_dense or self.is_prompt else names_in(self.weights, self.config)
        return {
            name.site if self.places is None else self.places.place(name.site, self.path).site: name.embedding
            for name in names
        }

    @property
    def embeddings(self) -> frozenset[str]:
        """The sites that are embeddings, whose factors PEFT names differently in its files."""
        return frozenset(site for site, embedding in self.sites.items() if embedding)

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
    """Read and check one adapter folder, as it was at a single moment.

    Raises:
        ArtifactError: If it is missing, damaged, of a newer format, or its files are not those that were written.
    """
    return steady(lambda: read_once(path), lambda: identity(path), [path.parent])


def read_once(path: Path) -> AdapterFolder:
    """Read and check one adapter folder, for a caller that itself checks whether it was replaced meanwhile.

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
    recorded = os.path.lexists(path / MANIFEST)  # also a dangling link: that is damage, not a bare PEFT folder
    if dense and not recorded:
        raise ArtifactError(
            f"adapter {path} has dense deltas and no {MANIFEST}; restore it or make the merge again",
            code="dense-deltas-without-manifest",
        )
    manifest = Manifest.read(path) if recorded else None
    return AdapterFolder(path, config, manifest, seen=seen)
