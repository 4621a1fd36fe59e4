"""Which rows of the gradients an optimizer step uses, by how strongly the layers answered (layer L3)."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from clora_cli.algebra.lora import Factor
from clora_cli.methods import Activity, Method
from clora_cli.processes.ranks import summed
from clora_cli.training.build import ADAPTER, Built

__all__ = ["GradientFilter"]


class GradientFilter:
    """Watches what the adapted layers answer to a step's rows, and multiplies the gradients' rows by what methods say.

    Sums run over the tokens of all micro-batches and processes of a step, padding left out: they are those of the step in
    one piece. Nothing outlasts a step.

    Args:
        built: The run's model.
        methods: Those that filter.
        first: Whether the new adapter is the first of its package.
    """

    def __init__(self, built: Built, methods: Mapping[str, Method], first: bool) -> None:
        self._methods, self._first, self._device = methods, first, built.backbone.device
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
        given = self._told_apart(dict(inputs))
        self._masks = [given["attention_mask"]] + [given["labels"] != -100] * self._seq2seq
        try:
            yield given
        finally:
            self._masks = []  # no pass of any other kind counts, nor one that checkpointing repeats

    @torch.no_grad()
    def apply(self) -> None:
        """Multiply the gradients' rows: once per optimizer step, before clipping."""
        means = self._take()
        groups: dict[tuple[int, ...], list[str]] = defaultdict(list)
        for site, factor in self._trainable.items():
            groups[(factor.rank, factor.shape[0])].append(site)
        for sites in groups.values():
            a, b = (torch.stack([means[site, side] for site in sites]).to(self._device) for side in ("a", "b"))
            for method in self._methods.values():
                found = method.filter_gradients(Activity(a, b, self._first))
                if found is not None:
                    self._multiply(sites, *found)

    def _multiply(self, sites: list[str], a: Tensor, b: Tensor) -> None:
        for index, site in enumerate(sites):
            factor: Factor = self._trainable[site]
            for parameter, rows in ((factor.a, a[index]), (factor.b, b[index])):
                if parameter.grad is not None:
                    parameter.grad.mul_(rows[:, None].to(parameter.grad))

    def _take(self) -> dict[tuple[str, str], Tensor]:
        """Return the step's mean magnitudes, over all processes, and start afresh."""
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
            weights = next((mask.reshape(-1) for mask in self._masks if mask.numel() == len(flat)), None)
            weights = flat.new_ones(len(flat)) if weights is None else weights.to(flat)
            key = (site, side)
            self._sums[key] = self._sums.get(key, 0) + weights @ flat
            self._counts[key] = self._counts.get(key, 0) + weights.sum()

        return watch

    def _told_apart(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Pad prompts by one where they are as long as the answers, so that a layer's length says which of them it sees."""
        if self._seq2seq and inputs["input_ids"].shape == inputs["labels"].shape:
            inputs |= {name: functional.pad(inputs[name], (0, 1)) for name in ("input_ids", "attention_mask")}
        return inputs
