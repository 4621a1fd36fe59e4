"""Soft prompts in PEFT's prompt-tuning folders (layer L1): the vectors of virtual tokens that stand before an input."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clora_cli.base.errors import ArtifactError, MismatchError
from clora_cli.store.tensors import read_tensors

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["PROMPT", "is_prompt", "no_deltas", "read_prompt"]

PROMPT = "prompt_embeddings"  # PEFT's name of the tensor
# Kinds of PEFT whose finished folder is no more than the vectors: P-tuning's encoder is folded into them when it is saved.
_KINDS = {"PROMPT_TUNING", "P_TUNING"}


def is_prompt(config: Mapping[str, Any]) -> bool:
    """Tell whether an ``adapter_config.json`` is that of soft prompts."""
    return config.get("peft_type") in _KINDS


def read_prompt(path: Path, config: Mapping[str, Any]) -> Tensor:
    """Read the virtual tokens' vectors of a prompt-tuning folder.

    Args:
        path: The tensor file.
        config: Its ``adapter_config.json``.

    Returns:
        Shape (token, hidden): those that stand before the input of a decoder-only model or of an encoder. PEFT stores as many again
        for an encoder-decoder's decoder, which it does not use.

    Raises:
        ArtifactError: If the file is missing, damaged, or not what the configuration says.
        MismatchError: If it holds more than soft prompts.
    """
    tensors = read_tensors(path)
    if odd := sorted(tensors.keys() - {PROMPT}):
        raise MismatchError(
            f"adapter {path.parent} holds '{odd[0]}' beside its soft prompt, which clora cannot use; save the prompt alone",
            code="soft-prompt-not-alone",
        )
    found, count = tensors.get(PROMPT), config.get("num_virtual_tokens")
    submodules = config.get("num_transformer_submodules") or 1
    if (
        found is None
        or found.ndim != 2
        or not found.is_floating_point()
        or not count
        or len(found) != count * submodules
    ):
        raise ArtifactError(
            f"adapter {path.parent} is damaged: {path.name} does not hold the {count} virtual tokens that adapter_config.json "
            "says; restore it or make it again",
            code="soft-prompt-damaged",
        )
    return found[:count]


def no_deltas(path: Path) -> MismatchError:
    """Return the error for whoever needs what an adapter changes of weights, and is given soft prompts."""
    return MismatchError(
        f"{path} holds a soft prompt, which changes no weight: it cannot be merged, trimmed, compared, exported, served or "
        "routed to by features; clora eval scores it",
        code="soft-prompt-changes-no-weight",
    )
