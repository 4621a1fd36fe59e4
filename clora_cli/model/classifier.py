"""The classification head of an encoder in memory (layer L1).

Transformers' classes for classification put an output layer behind the encoder, and mostly a small layer before it. What of it the
model's files lack is the identity here and stays it, so that all packages over one base model read it alike; the output layer has
the rows of those adapters that are in use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from clora_cli.base.errors import MismatchError
from clora_cli.model.checkpoint import Checkpoint
from clora_cli.model.head_layers import headless, modules_around, output_of, outside
from clora_cli.model.places import Places

if TYPE_CHECKING:
    from clora_cli.model.backbone import Backbone
    from clora_cli.store.heads import Head

__all__ = ["Classifier"]


class Classifier:
    """Puts heads into a model.

    Args:
        backbone: An encoder, not yet under PEFT.

    Attributes:
        module: The output layer's path.
        inner: The parameters before it that the base model's files lack, each the identity or 0.
        modules: The modules that hold these and the output layer, as PEFT's ``modules_to_save`` names them.

    Raises:
        MismatchError: If Transformers has no classification head for it.
    """

    def __init__(self, backbone: Backbone) -> None:
        found = output_of(backbone.model)
        if found is None:
            raise headless(backbone.reference.id)
        self._model, self.module = backbone.model, found
        places, keys = Places(backbone.model), list(Checkpoint(backbone.reference.path).keys)
        lacking = [name for name in outside(backbone.model) if places.key_of(name, keys) is None]
        self.inner = {
            name: _identity(name, backbone.model.get_parameter(name)) for name in lacking if not self._is_output(name)
        }
        self.modules = modules_around(backbone.model, [*self.inner, f"{found}.weight", f"{found}.bias"])

    @property
    def layer(self) -> nn.Linear:
        """The output layer."""
        layer: nn.Linear = self._model.get_submodule(self.module)
        return layer

    @torch.no_grad()
    def put(self, head: Head, dtype: torch.dtype | None = None) -> nn.Linear:
        """Let the output layer have a head's rows, and return it.

        Args:
            head: The head.
            dtype: The layer's type; the model's own by default.

        Raises:
            MismatchError: If the head is of another model.
        """
        self._check(head)
        old, holder = self.layer, self._model.get_submodule(self.module.rpartition(".")[0])
        for name, own in head.inner.items():
            self._model.get_parameter(name).copy_(own)
        new = nn.Linear(old.in_features, len(head.weight), device=old.weight.device, dtype=dtype or old.weight.dtype)
        new.weight.copy_(head.weight)
        new.bias.copy_(head.bias)
        setattr(holder, self.module.rpartition(".")[2], new.requires_grad_(False))
        return new

    def width(self) -> int:
        """Return how many numbers of a text the output layer reads."""
        return self.layer.in_features

    def _check(self, head: Head) -> None:
        fits = head.module == self.module and head.weight.shape[1] == self.layer.in_features
        if not fits or any(
            own.shape != self.inner[name].shape for name, own in head.inner.items() if name in self.inner
        ):
            raise MismatchError(
                f"the head of {', '.join(head.tasks)} has other layers than this base model's classification head; was it trained on "
                "another model?",
                code="head-of-other-model",
            )
        if missing := sorted(self.inner.keys() - head.inner.keys()):
            raise MismatchError(
                f"the head of {', '.join(head.tasks)} was trained behind a '{missing[0]}' that neither its folder nor the base model has; "
                "save it with that layer among PEFT's modules_to_save",
                code="head-layer-missing",
            )
        if more := sorted(head.inner.keys() - self.inner.keys()):
            raise MismatchError(
                f"the head of {', '.join(head.tasks)} has a '{more[0]}' of its own, which the base model has too and clora leaves as it "
                "is; train it without that layer among PEFT's modules_to_save",
                code="head-layer-of-its-own",
            )

    def _is_output(self, name: str) -> bool:
        return name.rpartition(".")[0] == self.module


@torch.no_grad()
def _identity(name: str, own: nn.Parameter) -> Tensor:
    """Make a parameter of a layer pass on what it is given, and return its numbers, float32."""
    if own.ndim > 1:
        nn.init.eye_(own)
    else:
        own.fill_(float(name.endswith("weight")))  # a norm's
    return own.detach().float().cpu().clone()
