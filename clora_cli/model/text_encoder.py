"""A model beside the base model, of which features are embeddings of prompts (layer L1)."""

from __future__ import annotations

import dataclasses
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from clora_cli.base.errors import MismatchError, translated
from clora_cli.model.backbone import Backbone, load_backbone, load_skeleton
from clora_cli.model.base_model import ModelReference, find_model

if TYPE_CHECKING:
    from clora_cli.data.tokens import Tokens

__all__ = ["EMBEDDING", "embedding_width", "find_text_encoder", "load_text_encoder"]

EMBEDDING = "embedding"  # the site at which its features are read


class _Nothing(nn.Linear):
    """A layer that changes nothing, where what the encoder ends with is read as the output of any layer is."""

    def __init__(self, width: int) -> None:
        super().__init__(width, width, bias=False, device="meta")

    def forward(self, given: Tensor) -> Tensor:
        return given


def _body(model: Any, kind: str) -> Any:
    """Return a model without its head, or an encoder-decoder's encoder."""
    return model.get_encoder() if kind == "seq2seq" else model.base_model


class _Embedder(nn.Module):
    """A model's body, whose one site is what it ends with."""

    def __init__(self, whole: Backbone) -> None:
        super().__init__()
        self.body = _body(whole.model, whole.kind)
        word = torch.tensor([whole.tokens.ids("word", special=True)], device=whole.device)
        with torch.no_grad():  # what a model ends with may be wider or narrower than its layers
            self.embedding = _Nothing(self._states(input_ids=word, attention_mask=torch.ones_like(word)).shape[-1])

    def _states(self, **given: Any) -> Tensor:
        found: Tensor = self.body(**given).last_hidden_state
        return found

    def forward(self, **given: Any) -> Tensor:
        found: Tensor = self.embedding(self._states(**given))
        return found


@dataclasses.dataclass(frozen=True, eq=False)
class _TextEncoder(Backbone):
    """A text encoder as a base model is read: by its sites.

    Attributes:
        loaded: The whole model.
    """

    loaded: Backbone = dataclasses.field(kw_only=True)

    @cached_property
    def tokens(self) -> Tokens:
        """What tokenizer and whole model say about tokens."""
        return self.loaded.tokens


def find_text_encoder(name: str, revision: str | None = None) -> ModelReference:
    """Locate a text encoder: any model that reads texts, such as a sentence encoder.

    Raises:
        ArtifactError: If there is no such model, or its files are missing or damaged.
        MismatchError: If it sees images.
    """
    reference = find_model(name, revision)
    if reference.sees:
        raise MismatchError(
            f"--encoder {name} sees images; name a model that reads texts, such as a sentence encoder",
            code="text-encoder-sees-images",
        )
    return reference


def embedding_width(reference: ModelReference) -> int:
    """Return how many numbers an embedding has, by the model's configuration."""
    return int(_body(load_skeleton(reference), reference.kind).config.get_text_config().hidden_size)


def load_text_encoder(reference: ModelReference, *, device: torch.device, dtype: str = "auto") -> Backbone:
    """Load a text encoder, whose one site is ``EMBEDDING``: what it makes of each token in the end, without its head.

    Prompts are written as for an encoder, with the special tokens that the tokenizer adds and no chat template. Nothing is put
    before them, where some sentence encoders were trained with an instruction; embeddings are not brought to norm 1.

    Args:
        reference: From ``find_text_encoder``.
        device: Where to put it.
        dtype: ``auto`` is float32 on a CPU, bfloat16 on an accelerator.

    Raises:
        MismatchError: If the model ends with anything but a state of each token.
    """
    whole = load_backbone(reference, device=device, dtype=dtype)
    with translated(f"--encoder {reference.id} gives no embeddings", MismatchError, code="text-encoder-unusable"):
        model = _Embedder(whole).eval()
    read = dataclasses.replace(reference, kind="encoder")
    return _TextEncoder(model, whole.tokenizer, read, device, whole.dtype, loaded=whole)
