"""Hooks that pool what layers make of prompts, in a pass that ends when the last layer asked for has been read (layer L1)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from clora_cli.base.errors import MismatchError, translated
from clora_cli.model.backbone import Backbone
from clora_cli.model.sharding import give_up_whole
from clora_cli.store.feature_record import Pool

if TYPE_CHECKING:
    from clora_cli.model.prefix import Beginning

__all__ = ["Capture", "pooled"]


def pooled(output: Tensor, mask: Tensor, pool: Pool) -> Tensor:
    """Pool a layer's output over the tokens of each input.

    Args:
        output: Shape (input, token, feature).
        mask: Shape (input, token); 1 at the tokens that count, of which each input has at least one. An image is one of them, and
            all that a layer makes of it counts: patches, in one piece or in windows.
        pool: ``prompt-mean`` is the mean over them, ``last`` the last of them.

    Returns:
        Shape (input, feature), float32.
    """
    if mask.shape[1] == 1:  # Swin has an image's windows one after the other
        output = output.reshape(len(mask), -1, output.shape[-1])
        mask = mask.expand(output.shape[:2])
    output = output.flatten(1, -2)  # DeepSeek keeps an axis of one head between inputs and tokens
    if pool == "last":
        positions = torch.arange(mask.shape[1], device=mask.device)
        last = (mask * positions).argmax(dim=1)
        return output[torch.arange(len(output), device=output.device), last].float()
    weights = mask.float() / mask.sum(dim=1, keepdim=True)
    return torch.bmm(weights[:, None], output.float())[:, 0]


class _ReachedError(Exception):
    """Ends a forward pass whose last needed layer has been read."""


class Capture:
    """Hooks that pool the outputs, or the inputs, of some sites.

    Args:
        model: The base model.
        sites: The layers.
        pool: How to pool over tokens.
        inputs: Pool what the sites take in instead of what they give.
    """

    def __init__(self, model: nn.Module, sites: Sequence[str], pool: Pool, inputs: bool = False) -> None:
        self._model, self._sites, self._pool, self._inputs = model, sites, pool, inputs
        self._found: dict[str, Tensor] = {}
        self._begun: dict[str, Tensor] = {}
        self._mask: Tensor = torch.empty(0)
        self._handles: list[Any] = []

    def __enter__(self) -> Capture:
        for site in self._sites:
            # First of the layer's hooks: what adapters add to the output is no part of the feature.
            hook = self._module(site).register_forward_hook(self._reader(site), prepend=True)
            self._handles.append(hook)
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def begin(self, backbone: Backbone, ids: list[int]) -> Beginning | None:
        """Read what prompts begin with; None if the pass ends before the model has kept anything of it."""
        from clora_cli.model.prefix import (
            Beginning,  # loads Transformers, which commands that only read files do without
        )

        begun = Beginning.read_by(
            lambda **given: self._pass(backbone, given["attention_mask"], given), ids, backbone.model
        )
        self._begun = self._found
        return begun

    def run(self, backbone: Backbone, batch: Mapping[str, Tensor], begun: Beginning | None = None) -> dict[str, Tensor]:
        """Read a batch, padded on the right, or what follows in it after a beginning; return each site's features."""
        mask = batch["attention_mask"]
        if begun is None:
            extra = {"use_cache": False} if backbone.kind == "causal" else {}
            return self._pass(backbone, mask, {**batch, **extra})
        given = begun.before(batch, backbone.sharing.positions)
        found = self._pass(backbone, mask, {**given, "use_cache": True})
        if self._pool == "last":
            return found
        share = len(begun.ids) / (len(begun.ids) + mask.sum(dim=1, keepdim=True))
        return {site: one + share * (self._begun[site] - one) for site, one in found.items()}

    def _pass(self, backbone: Backbone, mask: Tensor, given: Mapping[str, Any]) -> dict[str, Tensor]:
        self._found, self._mask = {}, mask
        model = backbone.model.get_encoder() if backbone.kind == "seq2seq" else backbone.model
        try:
            with translated(
                f"{backbone.tokens.model} cannot read the prompts", MismatchError, code="prompts-unreadable"
            ):
                model(**given)
        except _ReachedError:
            if backbone.sharded:
                give_up_whole(backbone.model)
            return self._found
        missing = next(site for site in self._sites if site not in self._found)
        raise MismatchError(
            f"layer '{missing}' does not see the prompt, so it has no feature", code="layer-not-reached-by-prompt"
        )

    def _reader(self, site: str) -> Callable[[nn.Module, Any, Tensor], None]:
        def read(module: nn.Module, inputs: Any, output: Tensor) -> None:
            whole = inputs if self._inputs else output
            given = whole[0] if isinstance(whole, tuple) else whole  # Swin's patches come with their rows and columns
            self._found[site] = pooled(given, self._mask, self._pool)
            if len(self._found) == len(self._sites):
                raise _ReachedError

        return read

    def _module(self, site: str) -> nn.Module:
        try:
            module = self._model.get_submodule(site)
        except AttributeError:
            raise MismatchError(
                f"the base model has no layer '{site}'; was the adapter trained on another model?",
                code="base-model-lacks-layer",
            ) from None
        return getattr(module, "base_layer", module)
