"""Names of tensors in adapter files (layer L1): no torch, no model.

A file's name for a tensor is PEFT's, with what other tools put around it: the wrappers that a model was in when it was
saved, and the name of the adapter. What is left is the *site* as the file spells it; ``places`` says which layer of a
model that is.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from typing import Literal

from clora_cli.base.errors import MismatchError

__all__ = ["TensorName", "parse_name"]

Part = Literal["A", "B", "base"]

_PEFT = "base_model.model."
# Attributes under which wrappers keep the model: torch.compile, FSDP (new and old), activation checkpointing, Fabric.
_WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_fpw_module", "_checkpoint_wrapped_module", "_forward_module")
_WRAPPER = re.compile(rf"(?<![^.])(?:{'|'.join(_WRAPPERS)})\.")
_PARALLEL = "module."  # DistributedDataParallel, DataParallel and DeepSpeed; only in front: layers may be called that
_FACTOR = re.compile(r"^(?P<site>.+)\.lora_(?P<part>[AB])(\.(?P<adapter>[^.]+))?\.weight$")
_TABLE = re.compile(r"^(?P<site>.+)\.lora_embedding_(?P<part>[AB])(\.(?P<adapter>[^.]+))?$")
_BASE = re.compile(r"^(?P<site>.+?)(\.base_layer|\.original_module)?\.(?P<tensor>weight|bias)$")


@dataclass(frozen=True)
class TensorName:
    """What a tensor of an adapter file is.

    Attributes:
        site: The layer, as the file spells it.
        part: ``A`` or ``B``, a factor; ``base``, a copy of the base layer's own weight or bias, as PEFT saves one of layers
            that hold a vocabulary.
        embedding: Whether it is a factor of a table of embeddings: A has a column for each token, B a row for each of its
            features.
        tensor: Of a copy: ``weight`` or ``bias``.
        adapter: The adapter's name, where the file tells it.
    """

    site: str
    part: Part
    embedding: bool = False
    tensor: str = "weight"
    adapter: str = ""


@functools.lru_cache(maxsize=4096)  # the adapters of a package have the same names
def parse_name(key: str) -> TensorName:
    """Say what a tensor of an adapter file is, without the prefixes of the wrappers that the model was in.

    Raises:
        MismatchError: If it is neither a LoRA factor nor a weight of the base model, such as a magnitude of DoRA's.
    """
    name = _bare(key)
    if match := _FACTOR.match(name):
        return TensorName(match["site"], "A" if match["part"] == "A" else "B", adapter=match["adapter"] or "")
    if match := _TABLE.match(name):
        return TensorName(match["site"], "A" if match["part"] == "A" else "B", True, adapter=match["adapter"] or "")
    if "lora_" not in name and "modules_to_save" not in name and (match := _BASE.match(name)):
        return TensorName(match["site"], "base", tensor=match["tensor"])
    raise MismatchError(
        f"tensor '{key}' is not a plain LoRA factor; only LoRA on linear layers and embeddings is supported",
        code="tensor-not-lora-factor",
    )


def _bare(key: str) -> str:
    """Take wrappers' attributes out, wherever they are, and the prefixes that stand in front, in whatever order."""
    name = _WRAPPER.sub("", key)
    while name.startswith((_PEFT, _PARALLEL)):
        name = name.removeprefix(_PEFT).removeprefix(_PARALLEL)
    return name
