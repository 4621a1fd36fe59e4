"""What llama.cpp calls the layers of a model, and how it orders their rows (layer L1)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clora_cli.base.errors import ArtifactError, MismatchError
from clora_cli.model.gguf_file import open_gguf

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["GgufLayout", "layout_of_config", "layout_of_file"]

# Model type in a Transformers configuration to llama.cpp's architecture.
_ARCHITECTURES: Mapping[str, str] = {
    "llama": "llama",
    "mistral": "llama",
    "granite": "granite",
    "smollm3": "smollm3",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "gemma": "gemma",
    "gemma2": "gemma2",
    "gemma3_text": "gemma3",
    "phi3": "phi3",
    "gpt2": "gpt2",
    "olmo2": "olmo2",
    "starcoder2": "starcoder2",
}
# Where the two numbers that a rotation turns stand side by side, not half a head apart.
_ROTATED = {"llama", "granite", "smollm3"}
_TABLES = {"token_embd", "output"}


@dataclass(frozen=True)
class GgufLayout:
    """The layers of one model in GGUF.

    Attributes:
        architecture: llama.cpp's name for it.
        blocks: Number of transformer blocks.
        heads: Attention heads of the queries.
        kv_heads: Those of the keys.
        shapes: Tensor to (out, in) in the base model's own file; empty without one.
    """

    architecture: str
    blocks: int
    heads: int
    kv_heads: int
    shapes: Mapping[str, tuple[int, ...]]

    def name(self, site: str) -> str:
        """Return the name of a layer's weight.

        Raises:
            MismatchError: If llama.cpp takes no adapter there.
        """
        import gguf

        kind = next(kind for kind, name in gguf.MODEL_ARCH_NAMES.items() if name == self.architecture)
        found = gguf.get_tensor_name_map(kind, self.blocks).get_name(site)
        if found is None:
            raise MismatchError(
                f"layer '{site}' is none that llama.cpp has in architecture {self.architecture}; leave it out of the adapter",
                code="layer-unknown-to-loader",
            )
        if found in _TABLES:
            raise MismatchError(
                f"layer '{site}' is a table of the vocabulary, which many GGUF files hold once for inputs and outputs; add "
                "the adapter to the model with `clora merge --into-model`, and convert that",
                code="layer-unknown-to-loader",
            )
        return f"{found}.weight"

    def rows(self, name: str, b: Tensor) -> Tensor:
        """Return the rows of a layer's ``lora_B``, shape (out, rank), in the file's order.

        A rotation's two numbers, half a head apart in Transformers, stand side by side in llama.cpp's Llama.
        """
        heads = {"attn_q": self.heads, "attn_k": self.kv_heads}.get(name.split(".")[-2])
        if heads is None or self.architecture not in _ROTATED:
            return b
        return b.reshape(heads, 2, -1, b.shape[1]).transpose(1, 2).reshape(b.shape)

    def check(self, name: str, shape: tuple[int, int], site: str) -> None:
        """Check a delta's shape against the base model's own file, as llama.cpp does when it loads an adapter.

        Raises:
            MismatchError: If the file has no such tensor, or one of another shape.
        """
        if self.shapes and self.shapes.get(name) != shape:
            raise MismatchError(
                f"layer '{site}' is {name} of shape {self.shapes.get(name, 'none')} in the base model's file, not {shape}; "
                "pass the model that the adapters were trained on",
                code="layer-shape-differs",
            )


def layout_of_config(config: Mapping[str, Any], name: str) -> GgufLayout:
    """Return the layout of a model from its Transformers configuration.

    Args:
        config: ``config.json``.
        name: The model's name, for messages.

    Raises:
        MismatchError: If clora does not know how llama.cpp stores its architecture.
    """
    config = {**config, **(config.get("text_config") or {})}
    kind = str(config.get("model_type"))
    if kind not in _ARCHITECTURES:
        raise MismatchError(
            f"base model '{name}' is of type '{kind}'; adapters are written in GGUF for {', '.join(_ARCHITECTURES)}",
            code="architecture-unknown-to-loader",
        )
    heads = config.get("num_attention_heads", config.get("n_head"))
    blocks = config.get("num_hidden_layers", config.get("n_layer"))
    if not isinstance(heads, int) or not isinstance(blocks, int):
        raise ArtifactError(
            f"base model '{name}' has no number of layers or heads in its config.json; restore it",
            code="base-model-file-damaged",
        )
    return GgufLayout(_ARCHITECTURES[kind], blocks, heads, config.get("num_key_value_heads") or heads, {})


def layout_of_file(file: Path) -> GgufLayout:
    """Return the layout of a model from its GGUF file, with the shapes of its tensors.

    Raises:
        ArtifactError: If the file is damaged.
        MismatchError: If clora does not know its architecture.
        OptionError: If the gguf package is not installed.
    """
    reader = open_gguf(file)
    found = {key: field.contents() for key, field in reader.fields.items() if not key.startswith("tokenizer.")}
    architecture = str(found.get("general.architecture"))
    if architecture not in _ARCHITECTURES.values():
        raise MismatchError(
            f"base model {file} is of architecture '{architecture}'; adapters are written in GGUF for "
            f"{', '.join(sorted(set(_ARCHITECTURES.values())))}",
            code="architecture-unknown-to-loader",
        )
    shapes = {tensor.name: tuple(int(size) for size in reversed(tensor.shape)) for tensor in reader.tensors}
    blocks, heads = (found.get(f"{architecture}.{key}") for key in ("block_count", "attention.head_count"))
    if not isinstance(blocks, int) or not isinstance(heads, int):
        raise ArtifactError(
            f"base model file {file} has no number of layers or heads; fetch it again", code="gguf-damaged"
        )
    return GgufLayout(
        architecture, blocks, heads, found.get(f"{architecture}.attention.head_count_kv") or heads, shapes
    )
