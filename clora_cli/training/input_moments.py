"""Second moments of what the adapted layers take in (layer L3)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from clora_cli.data import Collator
from clora_cli.processes.ranks import rounds, summed
from clora_cli.training.answer_logits import model_inputs
from clora_cli.training.build import Built
from clora_cli.training.token_masks import apart, masks_of, weights_for
from clora_cli.training.undisturbed import undisturbed

__all__ = ["input_moments"]

_MOST = 1 << 30  # bytes of moments held at a time


def input_moments(
    built: Built, items: Sequence[Mapping[str, list[int]]], batch_size: int
) -> Iterator[tuple[str, Tensor]]:
    """Yield each adapted site with the mean of ``x xT`` over its inputs, shape (in, in), float64, on the CPU.

    Args:
        built: The run's model, which is read as it is at this moment.
        items: Encoded rows, all of whose tokens count, padding left out.
        batch_size: Rows of one forward pass.
    """
    for sites in _groups({site: factor.shape[1] for site, factor in built.trainable.items()}):
        totals = _totals(built, items, batch_size, sites)
        for site in sites:
            total = summed(totals.pop(site), built.backbone.device).cpu().double()
            yield site, total[:-1] / total[-1, 0]


def _groups(widths: Mapping[str, int]) -> list[list[str]]:
    """Return the sites in groups whose moments are held together."""
    groups: list[list[str]] = []
    size = 0
    for site, width in widths.items():
        own = 8 * width * width
        if not groups or size + own > _MOST:
            groups.append([])
            size = 0
        groups[-1].append(site)
        size += own
    return groups


def _totals(
    built: Built, items: Sequence[Mapping[str, list[int]]], batch_size: int, sites: Sequence[str]
) -> dict[str, Tensor]:
    """Return, by site, this process's sum of ``x xT`` with a last row that begins with the number of tokens."""
    backbone, seq2seq = built.backbone, built.backbone.kind == "seq2seq"
    collate = Collator(backbone.tokens)
    wide = torch.float32 if backbone.device.type == "mps" else torch.float64  # which MPS has not
    widths = {site: built.trainable[site].shape[1] for site in sites}
    totals = {site: torch.zeros(w + 1, w, dtype=wide, device=backbone.device) for site, w in widths.items()}
    masks: list[Tensor] = []

    def hook(site: str) -> Any:
        def add(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            if not masks:
                return
            vectors = inputs[0].detach().reshape(-1, inputs[0].shape[-1]).float()
            weights = weights_for(vectors, masks)
            count = torch.zeros_like(vectors[:1])
            count[0, 0] = weights.sum()
            totals[site] += torch.cat([(vectors * weights[:, None]).mT @ vectors, count])

        return add

    handles = [backbone.model.get_submodule(site).register_forward_pre_hook(hook(site)) for site in sites]
    try:
        with undisturbed(built.model), torch.no_grad():
            for start, counts in rounds(range(0, len(items), batch_size), equal=backbone.sharded):
                batch = apart(collate(list(items[start : start + batch_size])), seq2seq)
                masks[:] = [mask.to(backbone.device) for mask in masks_of(batch, seq2seq)] if counts else []
                inputs, labels = model_inputs(backbone, batch)
                rows = torch.arange(start, start + len(labels), device=backbone.device)
                for mixture in built.mixtures:
                    mixture.before(rows, inputs)
                built.model(**inputs, use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    return totals
