"""A base model's weights on disk (layer L1): the files that they are in, and one weight at a time."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from clora_cli.base.errors import ArtifactError, MismatchError
from clora_cli.base.files import damage, read_json
from clora_cli.store.tensors import read_header

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["CONFIG", "Checkpoint", "Part", "entry_of", "read_part", "read_parts"]

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
_WHOLE = "give the model before quantisation"
_SHARD = re.compile(r"-\d+-of-\d+\.safetensors$")
# In a model's folder, but no weights that Transformers reads: Mistral's and Meta's own names, adapters.
_OTHER = ("consolidated", "adapter_model")
_FLOATS = {"F64", "F32", "BF16", "F16"}
# What layers keep in place of ``weight`` once they are quantised.
_CODES = ("qweight", "weight_packed", "weight_scale", "weight_scale_inv", "weight.absmax", "SCB", "qzeros")


@dataclass(frozen=True, eq=False)
class Part:
    """One file of weights.

    Attributes:
        path: The file.
        tensors: Name to ``dtype``, ``shape`` and ``data_offsets``.
        begin: The byte at which the tensors begin.
    """

    path: Path
    tensors: Mapping[str, Mapping[str, Any]]
    begin: int


def read_part(path: Path) -> Part:
    """Read what a file of weights holds, but not the weights.

    Raises:
        ArtifactError: If it is missing, damaged, cut short, or a pointer in its place.
    """
    try:
        return Part(path, *read_header(path))
    except (OSError, ValueError) as error:
        raise ArtifactError(
            f"base model file {path} {damage(path, error, 'fetch it again')}", code="base-model-file-damaged"
        ) from error


def entry_of(folder: Path) -> str | None:
    """Return the name of the file at which Transformers begins to read a model's weights: the weights, or their index."""
    named = read_json(folder / CONFIG, "model configuration").get("transformers_weights")
    names = [name for name in (named, WEIGHTS, INDEX) if isinstance(name, str) and Path(name).name == name]
    return next((name for name in names if (folder / name).exists() or (folder / name).is_symlink()), None)


def read_parts(folder: Path) -> list[Part]:
    """Read what a model's files hold: those that Transformers reads, whatever other files are there.

    Raises:
        ArtifactError: If there are none, or one is missing or damaged, or an index names a file that does not exist.
    """
    if name := entry_of(folder):
        return _indexed(folder, name) if name.endswith(".json") else [read_part(folder / name)]
    files = sorted(file for file in folder.glob("*.safetensors") if not file.name.startswith(_OTHER))
    if not files:
        raise ArtifactError(f"base model {folder} {_without(folder)}", code="base-model-weights-missing")
    if shard := next((file for file in files if _SHARD.search(file.name)), None):
        raise ArtifactError(
            f"base model {folder} has {shard.name} and no {INDEX}, which names all shards; fetch it",
            code="weight-index-missing",
        )
    return [read_part(file) for file in files]


def _indexed(folder: Path, name: str) -> list[Part]:
    places = read_json(folder / name, "index of a model's files").get("weight_map")
    if not isinstance(places, dict) or not all(
        isinstance(file, str) and Path(file).name == file for file in places.values()
    ):
        raise ArtifactError(
            f"{folder / name} is damaged: it has no weight_map of tensors to files; fetch it again",
            code="weight-index-damaged",
        )
    files = sorted(set(places.values()))
    if missing := [file for file in files if not (folder / file).exists()]:
        raise ArtifactError(
            f"base model {folder} lacks {len(missing)} of {len(files)} files that {name} names ({missing[0]}); fetch what is missing",
            code="weight-shards-missing",
        )
    parts = {file: read_part(folder / file) for file in files}
    if odd := next((key for key, file in places.items() if key not in parts[file].tensors), None):
        raise ArtifactError(
            f"{folder / name} says that '{odd}' is in {places[odd]}, which has no such tensor: they are of different "
            "downloads; fetch both again",
            code="weight-index-contradicts-shard",
        )
    return list(parts.values())


def _without(folder: Path) -> str:
    names = [file.name for file in folder.iterdir()]
    if any(name.startswith("consolidated") and name.endswith(".safetensors") for name in names):
        return (
            f"has no {WEIGHTS}, but consolidated ones under names that Transformers does not read; fetch {WEIGHTS} too"
        )
    if any(name.endswith(".gguf") for name in names):
        return "has no .safetensors file, but GGUF ones; name one of those instead of the folder"
    return "has no .safetensors file; convert its weights, pickled ones are never loaded"


class Checkpoint:
    """A base model's weights on disk, read one at a time.

    Args:
        folder: The model's folder.

    Raises:
        ArtifactError: As ``read_parts``.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.parts = read_parts(folder)
        self._part_of = {key: part for part in self.parts for key in part.tensors}

    @property
    def keys(self) -> Iterable[str]:
        """Names of all tensors."""
        return self._part_of.keys()

    @property
    def numbers(self) -> int:
        """Number of numbers in all tensors, as they are stored."""
        return sum(math.prod(self.shape(key)) for key in self.keys)

    def shape(self, key: str) -> tuple[int, ...]:
        """Return a tensor's shape as it is stored."""
        return tuple(self._part_of[key].tensors[key]["shape"])

    def tensor(self, key: str) -> Tensor:
        """Read a tensor as it is stored.

        Raises:
            ArtifactError: If its file is gone or damaged.
        """
        from safetensors import SafetensorError, safe_open

        path = self._part_of[key].path
        try:
            with safe_open(path, framework="pt") as tensors:
                return cast("Tensor", tensors.get_tensor(key))
        except (SafetensorError, OSError) as error:
            raise ArtifactError(
                f"base model file {path} {damage(path, error, 'fetch it again')}", code="base-model-file-damaged"
            ) from error

    def check_whole(self, sites: Iterable[str]) -> None:
        """Check that no layer's weight is kept as codes of a quantised one.

        Raises:
            MismatchError: If one is.
        """
        codes = {key.removesuffix(f".{code}") for key in self.keys for code in _CODES if key.endswith(f".{code}")}
        for site in sites:
            if site in codes:
                raise MismatchError(
                    f"base model {self.folder} keeps '{site}' quantised; {_WHOLE}", code="base-weight-quantised"
                )

    def check_number(self, key: str) -> None:
        """Check that a tensor holds plain numbers.

        Raises:
            MismatchError: If it does not.
        """
        if self._part_of[key].tensors[key]["dtype"] not in _FLOATS:
            raise MismatchError(
                f"weight '{key}' of base model {self.folder} is quantised; {_WHOLE}", code="base-weight-quantised"
            )
