"""A base model's folder (layer L1): find it, and say which model it is; nothing is loaded as a model."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from clora_cli.base.errors import ArtifactError, MismatchError
from clora_cli.base.files import read_json
from clora_cli.model.checkpoint import CONFIG, Part, read_part, read_parts
from clora_cli.model.gguf_file import gguf_folder, is_gguf
from clora_cli.model.image_settings import image_settings
from clora_cli.model.model_types import ENCODERS, SEEING, check_type
from clora_cli.nano import MODEL_NAME, MODEL_PATH

__all__ = [
    "Kind",
    "ModelReference",
    "check_base",
    "check_pool",
    "check_writes",
    "find_model",
    "is_local",
    "same_base",
]

Kind = Literal["causal", "seq2seq", "encoder"]
_FETCHED = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]
# Keys of config.json that change without the model changing.
_VOLATILE = {"_name_or_path", "transformers_version", "dtype", "torch_dtype", "use_cache"}
_SAMPLE = 64  # bytes read from the middle of each tensor
# Buffers that older versions of Transformers saved beside the weights, by the ends of their names.
_BUFFERS = (".attn.bias", ".masked_bias", ".inv_freq", ".position_ids")
# What else decides what weights compute. Not among them is what is changed for a deployment (longer positions, windows), and
# what weights show themselves.
_DECIDING = {"rope_theta", "rope_local_base_freq", "rotary_emb_base"}
_DECIDING |= {"partial_rotary_factor", "rotary_pct", "rotary_dim"}
_DECIDING |= {"rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "norm_eps", "norm_epsilon", "layernorm_epsilon"}
_DECIDING |= {"num_attention_heads", "num_key_value_heads", "n_head", "n_heads", "num_heads", "head_dim", "d_kv"}
_DECIDING |= {"encoder_attention_heads", "decoder_attention_heads", "query_pre_attn_scalar", "scale_attn_weights"}
_DECIDING |= {"hidden_act", "hidden_activation", "activation_function", "dense_act_fn", "feed_forward_proj"}
_DECIDING |= {"num_experts_per_tok", "moe_k", "norm_topk_prob", "routed_scaling_factor", "scale_embedding"}
_DECIDING |= {"attention_multiplier", "embedding_multiplier", "residual_multiplier", "logits_scaling", "logit_scale"}
_DECIDING |= {"attn_logit_softcapping", "final_logit_softcapping", "alibi", "parallel_attn", "use_parallel_residual"}
_DECIDING |= {"relative_attention_num_buckets", "relative_attention_max_distance", "position_embedding_type"}
# Under which configurations keep what others have beside their other keys.
_HOLDERS = {"rope_parameters", "rope_scaling"}
# Names of the output layer's weight, which is outside all blocks.
HEADS = ("lm_head.weight", "embed_out.weight")


@dataclass(frozen=True)
class ModelReference:
    """Where a base model is and which one it is.

    Attributes:
        id: Its name: ``clora-nano``, a Hub id, or the path that was given.
        path: The local folder; of a GGUF file the one in the cache.
        kind: Decoder-only (``causal``), encoder and decoder (``seq2seq``), or an ``encoder`` alone, whose answers are classes.
        fingerprint: SHA-256 over configuration, tensor names, shapes, types and sampled bytes.
        revision: The Hub commit, if it came from there.
        weights: SHA-256 over the model's type and its weights' shapes, types and sampled bytes: it stays when a model is
            saved again with other keys in its configuration or in other files, as by another version of Transformers.
        settings: What of its configurations decides what these weights compute, such as ``rope_theta``.
        sees: Whether it reads images, not texts.
    """

    id: str
    path: Path
    kind: Kind
    fingerprint: str
    revision: str | None = None
    weights: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict, hash=False)
    sees: bool = False

    def recorded(self) -> dict[str, Any]:
        """Return what decides results and distributions: equal where version 0.1.0 recorded it."""
        return {"id": self.id, "revision": self.revision, "fingerprint": self.fingerprint, "kind": self.kind}

    def described(self) -> dict[str, Any]:
        """Return what a manifest keeps of it: ``recorded``, the weights' own fingerprint, and what decides what they compute."""
        return {**self.recorded(), "weights": self.weights, "settings": dict(self.settings)}


def find_model(name: str, revision: str | None = None) -> ModelReference:
    """Locate a base model: the bundled one, a folder, a GGUF file, or the Hub (its cache only, when offline).

    Raises:
        ArtifactError: If there is no such model, or its files are missing or damaged.
        OptionError: If it is a GGUF file and what reads them is not installed.
        MismatchError: If it is an image model of a type that no adapter can be trained on.
    """
    if name == MODEL_NAME:
        path, commit = MODEL_PATH, None
    elif Path(name).is_dir():
        path, commit = Path(name), None
    elif is_gguf(name):
        path, commit = gguf_folder(Path(name)), None
    else:
        path, commit = _download(name, revision)
    if not (path / CONFIG).exists() and (path / "adapter_config.json").exists():
        raise ArtifactError(
            f"base model {path} is an adapter, not a model; name the model that it was trained on",
            code="base-model-is-adapter",
        )
    config = read_json(path / CONFIG, "model configuration")
    sees = check_type(name, config)
    seeing = image_settings(path) if sees else {}
    fingerprint, weights = _fingerprints(path, {**config, "image_processor": seeing} if seeing else config)
    settings = dict(sorted(_settings(config))) | {f"image_processor.{key}": value for key, value in seeing.items()}
    return ModelReference(name, path, _kind(config), fingerprint, commit, weights, settings, sees)


def is_local(name: str) -> bool:
    """Tell whether a base model's name is the bundled one's, or a folder or file here, so that nothing is fetched."""
    return name == MODEL_NAME or Path(name).is_dir() or is_gguf(name)


def same_base(recorded: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Tell whether two records name the same base model: equal fingerprints, or equal weights that compute the same.

    A record of version 0.1.0 has no fingerprint of the weights alone; where the folder that it names is still that model,
    they are read there.
    """
    if recorded.get("fingerprint") == other.get("fingerprint"):
        return True
    mine, theirs = _known(recorded), _known(other)
    return bool(mine["weights"]) and mine["weights"] == theirs["weights"] and not _other_settings(mine, theirs)


def check_base(recorded: Mapping[str, Any], reference: ModelReference, where: Path) -> None:
    """Refuse an adapter that was trained on another base model.

    Raises:
        MismatchError: If the recorded base model has other weights. A bare PEFT folder records none and passes.
    """
    if "fingerprint" not in recorded or same_base(recorded, reference.described()):
        return
    name, other = recorded.get("id"), reference.id
    what = _difference(_known(recorded), reference.described())
    if name == other:
        raise MismatchError(
            f"{where} was trained on base model '{name}' as it was then, with other {what}; restore it, or train again",
            code="base-model-changed",
        )
    raise MismatchError(
        f"{where} was trained on base model '{name}', not on '{other}', which has other {what}; pass --model {name}",
        code="trained-on-other-base-model",
    )


def _difference(recorded: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    if not recorded["weights"]:  # then it may be the configuration alone
        return "weights or another configuration"
    if recorded["weights"] != other["weights"]:
        return "weights"
    changed = _other_settings(recorded, other)
    return "settings: " + ", ".join(
        f"{key} {other['settings'][key]!r:.40}, not {recorded['settings'][key]!r:.40}" for key in changed
    )


def _known(recorded: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a record with what earlier ones lack, where the folder that it names is still that model."""
    lacking = {"weights": "", "settings": {}, **recorded}
    name = str(recorded.get("id"))
    if {"weights", "settings"} <= recorded.keys() or not is_local(name):
        return lacking
    try:
        there = find_model(name)
    except ArtifactError:
        return lacking
    return {**lacking, **there.described()} if there.fingerprint == recorded.get("fingerprint") else lacking


def _other_settings(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Name the settings in which both records differ; libraries leave defaults out, and add keys."""
    return [key for key, value in one["settings"].items() if other["settings"].get(key, value) != value]


def _settings(config: Mapping[str, Any], where: str = "") -> Iterator[tuple[str, Any]]:
    """Yield what decides what weights compute, by its key within a configuration's parts."""
    for key, value in config.items():
        if isinstance(value, dict):
            yield from _settings(value, where if key in _HOLDERS else f"{where}{key}.")
        elif key in _DECIDING and isinstance(value, (str, int, float)):
            yield f"{where}{key}", value


def check_writes(reference: ModelReference) -> None:
    """Refuse a base model that cannot write: an encoder without a decoder.

    Raises:
        MismatchError: If it is one.
    """
    if reference.kind == "encoder":
        raise MismatchError(
            f"base model '{reference.id}' is an encoder, which chooses among classes and writes no text; it can be used for "
            "`clora train-task`, `clora eval`, `clora route` and what needs no model",
            code="encoder-cannot-write",
        )


def check_pool(reference: ModelReference, pool: str) -> None:
    """Refuse the last token's features where inputs are images, which have no last token.

    Raises:
        MismatchError: If it is asked for.
    """
    if reference.sees and pool == "last":
        raise MismatchError(
            f"base model '{reference.id}' sees images, which have no last token; take their mean (--pool prompt-mean)",
            code="pool-needs-texts",
        )


def _kind(config: Mapping[str, Any]) -> Kind:
    if config.get("is_encoder_decoder"):
        return "seq2seq"
    decodes = config.get("is_decoder") or any("CausalLM" in name for name in config.get("architectures") or ())
    return "encoder" if config.get("model_type") in ENCODERS | SEEING and not decodes else "causal"


def _download(name: str, revision: str | None) -> tuple[Path, str | None]:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    nowhere = f"base model '{name}' is neither '{MODEL_NAME}' nor a folder or a .gguf file"
    try:
        path = Path(snapshot_download(name, revision=revision, allow_patterns=_FETCHED))
    except HFValidationError:
        raise ArtifactError(f"{nowhere}, and not a valid name on the Hub", code="base-model-not-found") from None
    except LocalEntryNotFoundError:
        raise ArtifactError(
            f"{nowhere}, is not in the Hub's cache, and the Hub cannot be reached", code="hub-unreachable"
        ) from None
    except (RepositoryNotFoundError, HfHubHTTPError, OSError) as error:
        raise ArtifactError(
            f"{nowhere}, and the Hub refuses it: {str(error).strip().splitlines()[0]}", code="hub-refused"
        ) from error
    return path, path.name


def _fingerprints(folder: Path, config: Mapping[str, Any]) -> tuple[str, str]:
    """Return the whole model's fingerprint and that of its weights alone."""
    parts = read_parts(folder)
    samples = [pair for part in parts for pair in _samples(part)]
    lines = [f"{name} ".encode() + sample for name, sample in samples]
    for file in sorted(set(folder.glob("*.safetensors")) - {part.path for part in parts}):
        # Files that Transformers does not read may be pointers or half downloaded.
        with contextlib.suppress(ArtifactError):
            lines += [f"{name} ".encode() + sample for name, sample in _samples(read_part(file))]
    stable = {key: value for key, value in config.items() if key not in _VOLATILE}
    whole = _digest([json.dumps(stable, sort_keys=True).encode(), *sorted(lines)])
    return whole, _digest([str(config.get("model_type")).encode(), *_in_order(dict(samples))])


def _samples(part: Part) -> Iterator[tuple[str, bytes]]:
    """Yield each tensor's name, and what is looked at of it: type, shape and bytes from its middle."""
    try:
        with part.path.open("rb") as file:
            for name, entry in part.tensors.items():
                start, end = entry["data_offsets"]
                file.seek(part.begin + max(start, (start + end - _SAMPLE) // 2))
                sample = file.read(min(_SAMPLE, end - start))
                yield name, f"{entry['dtype']} {entry['shape']} ".encode() + sample.hex().encode()
    except OSError as error:
        raise ArtifactError(
            f"base model file {part.path} cannot be read: {error.strerror or error}", code="path-unreadable"
        ) from error


def _in_order(samples: Mapping[str, bytes]) -> list[bytes]:
    """Return the weights' samples in the order of their names, which libraries prefix and files omit as they like."""
    names = sorted(name for name in samples if not name.endswith((*_BUFFERS, *HEADS)))
    ordered = [samples[name] for name in names]
    # A head that is tied to the embeddings may be saved or not.
    heads = [samples[name] for name in sorted(samples) if name.endswith(HEADS)]
    return [*ordered, *(head for head in heads if head not in ordered)]


def _digest(lines: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for line in lines:
        digest.update(line)
    return digest.hexdigest()
