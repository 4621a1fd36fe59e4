"""A base model's files (layer L1): find them, identify them, read single weights; nothing is loaded as a model."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from clora_cli.errors import ArtifactError, MismatchError
from clora_cli.files import read_json
from clora_cli.nano import MODEL_NAME, MODEL_PATH
from clora_cli.tensors import read_header

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Checkpoint", "Kind", "ModelReference", "check_answers", "check_base", "find_model", "oriented"]

Kind = Literal["causal", "seq2seq", "encoder"]
_WEIGHT_FILES = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]
# Keys of config.json that change without the model changing.
_VOLATILE = {"_name_or_path", "transformers_version", "dtype", "torch_dtype", "use_cache"}
# Model types that are encoders unless their configuration says that they decode.
_ENCODERS = {"albert", "bert", "camembert", "deberta", "deberta-v2", "distilbert", "electra", "ernie", "eurobert"}
_ENCODERS |= {"modernbert", "mpnet", "nomic_bert", "roberta", "xlm-roberta", "xlm-roberta-xl"}
_SAMPLE = 64  # bytes read from the middle of each tensor


@dataclass(frozen=True)
class ModelReference:
    """Where a base model is and which one it is.

    Attributes:
        id: The name it goes by: ``clora-nano``, a Hub id, or the path that was given.
        path: The local folder.
        kind: Decoder-only (``causal``), encoder and decoder (``seq2seq``), or an ``encoder`` alone, which has features
            and gives no answers.
        fingerprint: SHA-256 over configuration, tensor names, shapes, types and sampled bytes.
        revision: The Hub commit, if it came from there.
    """

    id: str
    path: Path
    kind: Kind
    fingerprint: str
    revision: str | None = None

    def recorded(self) -> dict[str, Any]:
        """Return what manifests and distributions keep of it."""
        return {"id": self.id, "revision": self.revision, "fingerprint": self.fingerprint, "kind": self.kind}


def find_model(name: str, revision: str | None = None) -> ModelReference:
    """Locate a base model: the bundled one, a folder, or the Hub (its cache only, when offline).

    Raises:
        ArtifactError: If there is no such model, or its files are missing or damaged.
    """
    if name == MODEL_NAME:
        path, commit = MODEL_PATH, None
    elif Path(name).is_dir():
        path, commit = Path(name), None
    else:
        path, commit = _download(name, revision)
    config = read_json(path / "config.json", "model configuration")
    return ModelReference(name, path, _kind(config), _fingerprint(path, config), commit)


def check_base(recorded: Mapping[str, Any], reference: ModelReference, where: Path) -> None:
    """Refuse an adapter that was trained on another base model.

    Raises:
        MismatchError: If the recorded fingerprint differs. A bare PEFT folder records none and passes.
    """
    if recorded.get("fingerprint", reference.fingerprint) != reference.fingerprint:
        raise MismatchError(
            f"{where} was trained on base model '{recorded['id']}', not on '{reference.id}'; pass --model {recorded['id']}"
        )


def check_answers(reference: ModelReference) -> None:
    """Refuse a base model that cannot answer: an encoder without a decoder.

    Raises:
        MismatchError: If it is one.
    """
    if reference.kind == "encoder":
        raise MismatchError(
            f"base model '{reference.id}' is an encoder, which gives no answers; it can be used for "
            "`clora stat-features`, `clora route` and `clora expand`"
        )


def _kind(config: Mapping[str, Any]) -> Kind:
    if config.get("is_encoder_decoder"):
        return "seq2seq"
    decodes = config.get("is_decoder") or any("CausalLM" in name for name in config.get("architectures") or ())
    return "encoder" if config.get("model_type") in _ENCODERS and not decodes else "causal"


def _download(name: str, revision: str | None) -> tuple[Path, str | None]:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    nowhere = f"base model '{name}' is neither '{MODEL_NAME}' nor a folder"
    try:
        path = Path(snapshot_download(name, revision=revision, allow_patterns=_WEIGHT_FILES))
    except HFValidationError:
        raise ArtifactError(f"{nowhere}, and no name that the Hub could have") from None
    except LocalEntryNotFoundError:
        raise ArtifactError(f"{nowhere}, and the Hub cannot be reached nor is it in the Hub's cache") from None
    except (RepositoryNotFoundError, HfHubHTTPError, OSError) as error:
        raise ArtifactError(f"{nowhere}, and the Hub refuses it: {str(error).strip().splitlines()[0]}") from error
    return path, path.name


def _fingerprint(path: Path, config: Mapping[str, Any]) -> str:
    digest = hashlib.sha256(
        json.dumps({k: v for k, v in config.items() if k not in _VOLATILE}, sort_keys=True).encode()
    )
    files = sorted(path.glob("*.safetensors"))
    if not files:
        raise ArtifactError(
            f"base model {path} has no .safetensors file; convert its weights, pickled ones are never loaded"
        )
    lines: list[bytes] = []
    for file in files:
        lines.extend(_tensor_lines(file))
    for line in sorted(lines):
        digest.update(line)
    return digest.hexdigest()


def _tensor_lines(path: Path) -> list[bytes]:
    lines = []
    try:
        header, begin = read_header(path)
        with path.open("rb") as file:
            for name, entry in header.items():
                start, end = entry["data_offsets"]
                file.seek(begin + max(start, (start + end - _SAMPLE) // 2))
                sample = file.read(min(_SAMPLE, end - start))
                lines.append(f"{name} {entry['dtype']} {entry['shape']} ".encode() + sample.hex().encode())
    except (OSError, ValueError) as error:
        raise ArtifactError(f"base model file {path} is damaged ({error}); fetch it again") from error
    return lines


class Checkpoint:
    """A base model's weights on disk, read one at a time.

    Args:
        path: The model's folder, of one or several ``.safetensors`` files.

    Raises:
        ArtifactError: If a file cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.files: dict[Path, list[str]] = {}
        for file in sorted(path.glob("*.safetensors")):
            with _opened(file) as tensors:
                self.files[file] = list(tensors.keys())
        self._keys = {key: file for file, keys in self.files.items() for key in keys}

    @property
    def keys(self) -> Iterable[str]:
        """Names of all tensors."""
        return self._keys.keys()

    def tensor(self, key: str) -> Tensor:
        """Read a tensor as it is stored."""
        with _opened(self._keys[key]) as tensors:
            return cast("Tensor", tensors.get_tensor(key))

    def key_of(self, site: str) -> str:
        """Return the name under which a site's weight is stored.

        Checkpoints of bare models leave out the prefix (``model.``, ``transformer.``) that the site's path has.

        Raises:
            MismatchError: If no weight, or more than one, can be the site's.
        """
        name = f"{site}.weight"
        found = [key for key in self._keys if key == name or name.endswith(f".{key}") or key.endswith(f".{name}")]
        if name in found or len(found) == 1:
            return name if name in found else found[0]
        raise MismatchError(
            f"the base model's files have no weight '{name}', which an adapter changes; was it trained on another model?"
        )

    def weight(self, site: str, shape: tuple[int, int], transposed: bool = False) -> Tensor:
        """Read a site's weight as (out, in), whichever way round it is stored.

        Args:
            site: Module path.
            shape: (out, in), as the adapters have it.
            transposed: Whether a square weight is stored as (in, out), as GPT-2's are; others tell by their shape.

        Raises:
            MismatchError: If its shape is another, or it is quantised.
        """
        key = self.key_of(site)
        with _opened(self._keys[key]) as tensors:
            return oriented(tensors.get_tensor(key), shape, transposed, key)


def oriented(stored: Tensor, shape: tuple[int, int], transposed: bool, key: str) -> Tensor:
    """Return a stored weight as (out, in): a view, so that what is added to it is added to what is stored.

    Raises:
        MismatchError: If its shape is another, or it is quantised.
    """
    if not stored.is_floating_point() or stored.element_size() < 2:
        raise MismatchError(f"weight '{key}' of the base model is quantised; give the model before quantisation")
    if tuple(stored.shape) == shape and not (transposed and shape[0] == shape[1]):
        return stored
    if tuple(stored.shape) == shape[::-1]:
        return stored.T
    raise MismatchError(f"weight '{key}' is {tuple(stored.shape)} in the base model and {shape} in the adapters")


@contextlib.contextmanager
def _opened(file: Path) -> Iterator[Any]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt") as tensors:
            yield tensors
    except (SafetensorError, OSError) as error:
        raise ArtifactError(f"base model file {file} is damaged ({error}); fetch it again") from error
