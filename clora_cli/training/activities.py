"""How strongly the adapted layers answer to the rows of an optimizer step (layer L3)."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from clora_cli.methods import Activity
from clora_cli.processes.ranks import summed
from clora_cli.training.build import ADAPTER, Built
from clora_cli.training.token_masks import apart, masks_of, weights_for

__all__ = ["Magnitudes"]


class Magnitudes:
    """Adds up the magnitudes of what the adapted layers answer.

    Sums run over the tokens of all micro-batches and processes of a step, padding left out: they are those of the step in
    one piece. Nothing outlasts a step.

    Args:
        built: The run's model.
    """

    def __init__(self, built: Built) -> None:
        self._device = built.backbone.device
        self._trainable = dict(sorted(built.trainable.items()))
        self._seq2seq = built.backbone.kind == "seq2seq"
        self._masks: list[Tensor] = []
        self._sums: dict[tuple[str, str], Tensor] = {}
        self._counts: dict[tuple[str, str], Tensor] = {}
        for site in self._trainable:
            layer = built.backbone.model.get_submodule(site)
            layer.register_forward_hook(self._hook(site, "b"))
            layer.lora_A[ADAPTER].register_forward_hook(self._hook(site, "a"))

    @contextlib.contextmanager
    def watching(self, inputs: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """For one forward pass, watch; gives the inputs to pass on."""
        given = apart(inputs, self._seq2seq)
        self._masks = masks_of(given, self._seq2seq)
        try:
            yield given
        finally:
            self._masks = []  # skip other passes, and those that checkpointing repeats

    def take(self) -> list[Activity]:
        """Return the step's mean magnitudes, over all processes, and start afresh: once per optimizer step."""
        means = self._means()
        groups: dict[tuple[int, ...], list[str]] = defaultdict(list)
        for site, factor in self._trainable.items():
            groups[(factor.rank, factor.shape[0])].append(site)
        stacked = (
            (sites, [torch.stack([means[site, side] for site in sites]) for side in "ab"]) for sites in groups.values()
        )
        return [Activity(sites, a.to(self._device), b.to(self._device)) for sites, (a, b) in stacked]

    def _means(self) -> dict[tuple[str, str], Tensor]:
        keys = [(site, side) for site in self._trainable for side in ("a", "b")]
        sizes = [
            factor.rank if side == "a" else factor.shape[0] for factor in self._trainable.values() for side in "ab"
        ]
        none = torch.zeros((), device=self._device)
        sums = [self._sums.get(key, none.expand(size)) for key, size in zip(keys, sizes, strict=True)]
        counts = torch.stack([self._counts.get(key, none) for key in keys])
        *parts, total = torch.split(summed(torch.cat([*sums, counts]), self._device), [*sizes, len(keys)])
        self._sums, self._counts = {}, {}
        return {key: part / count.clamp(min=1) for key, part, count in zip(keys, parts, total, strict=True)}

    def _hook(self, site: str, side: str) -> Any:
        def watch(module: nn.Module, inputs: Any, output: Tensor) -> None:
            if not self._masks:
                return
            flat = output.detach().reshape(-1, output.shape[-1]).float().abs()
            weights = weights_for(flat, self._masks)
            key = (site, side)
            self._sums[key] = self._sums.get(key, 0) + weights @ flat
            self._counts[key] = self._counts.get(key, 0) + weights.sum()

        return watch
