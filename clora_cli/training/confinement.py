"""Training confined to a subspace of a LoRA that tasks share (layer L3)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from clora_cli.algebra.lora import Factor
from clora_cli.base import registry
from clora_cli.base.progress import Progress, Silent
from clora_cli.methods import Trimming
from clora_cli.store.ledger import mask_key, pack, unpack
from clora_cli.training.row_order import run_seed
from clora_cli.trims import Entries

__all__ = ["Confinement", "warmup_steps"]


class Confinement:
    """Keeps every entry of ``lora_B`` but those of the new task exactly zero.

    Until the warm-up ends the new task's entries are all that nobody owns; then a trim of how far they moved chooses some of
    them. Gradients elsewhere are cleared before they are clipped, and the entries themselves after each step, so that neither
    momentum nor weight decay nor rounding can move one.

    Args:
        trimming: How the entries are chosen.
        trainable: The new adapter: site to its factors, of which ``b`` is trained.
        idle: Site to the entries that nobody owns, shape (out, rank), bool.
        warmup: Optimizer steps of the warm-up, from ``warmup_steps``.
        seed: For trims that draw random numbers.
        progress: Who to tell.
        kept: Where the chosen masks are kept from step to step, packed, and found when a run is continued.
        report: Where ``warnings`` are, for the manifest.
    """

    def __init__(
        self,
        trimming: Trimming,
        trainable: Mapping[str, Factor],
        idle: Mapping[str, Tensor],
        warmup: int,
        *,
        seed: int = 0,
        progress: Progress | None = None,
        kept: dict[str, Tensor] | None = None,
        report: dict[str, Any] | None = None,
    ) -> None:
        self._trimming, self._warmup, self._seed = trimming, warmup, seed
        self._progress = progress or Silent()
        self._kept = {} if kept is None else kept
        self._b: dict[str, nn.Parameter] = {site: trainable[site].b for site in sorted(trainable)}  # type: ignore[misc]
        self._idle = {site: idle[site] for site in self._b}
        self._warnings: list[str] = ({} if report is None else report).setdefault("warnings", [])
        self._masks: dict[str, Tensor] | None = None
        if mask_key(next(iter(self._b))) in self._kept:
            self._masks = {site: unpack(self._kept[mask_key(site)], b.shape) for site, b in self._b.items()}
        self._block(self._masks or self._idle)

    def rate(self, step: int) -> float:
        """Return what the learning rate of one optimizer step, counted from 0, is multiplied by."""
        return self._trimming.warmup_lr if step < self._warmup else 1.0

    @torch.no_grad()
    def clear_gradients(self) -> None:
        """Clear the gradients of all other entries: once per optimizer step, before clipping."""
        for site, b in self._b.items():
            if b.grad is not None:
                b.grad.masked_fill_(self._blocked[site], 0)

    @torch.no_grad()
    def after_step(self, steps: int) -> None:
        """Put all other entries back to zero, after so many optimizer steps; at the end of the warm-up, choose."""
        if self._masks is None and steps >= self._warmup:
            self._masks = self._chosen()
            self._kept.update(self.state())
            self._block(self._masks)
            self._progress.note(f"subspace: {self._summary()}")
        for site, b in self._b.items():
            b.masked_fill_(self._blocked[site], 0)

    def state(self) -> dict[str, Tensor]:
        """Return the chosen masks, packed, for ``state.clora``."""
        return {mask_key(site): pack(mask) for site, mask in (self._masks or {}).items()}

    def recorded(self) -> dict[str, Any]:
        """Return what the manifest says of the result, as shares of all entries, in [0, 1]."""
        size = sum(b.numel() for b in self._b.values())
        idle, owned = (sum(int(mask.sum()) for mask in masks.values()) for masks in (self._idle, self._masks or {}))
        shares = {"owned": owned / size, "idle": (idle - owned) / size, "of_idle": owned / idle}
        return {"entries": size, "warmup_steps": self._warmup, **shares, "warnings": self._warnings}

    def _chosen(self) -> dict[str, Tensor]:
        together = [list(self._b)] if self._trimming.scope == "all" else [[site] for site in self._b]
        return {site: mask for sites in together for site, mask in self._trimmed(sites).items()}

    def _trimmed(self, sites: list[str]) -> dict[str, Tensor]:
        masks = {site: self._idle[site].clone() for site in sites}
        # lora_B starts at zero: where an entry is now is how far it has moved.
        moved = torch.cat([self._b[site].detach().float().cpu()[masks[site]] for site in sites])
        if not len(moved):
            return masks
        # Sites that choose for themselves draw for themselves, where a trim draws.
        seed = self._seed if len(sites) > 1 else run_seed(self._seed, sites[0])
        kept = registry.bound("trims", self._trimming.trim).keep(Entries(moved, seed=seed))
        if kept.warning:
            self._warnings.append(kept.warning)
            self._progress.note(f"subspace: {kept.warning}")
        mask = self._limited(kept.mask, moved, sum(masks[site].numel() for site in sites))
        start = 0
        for site in sites:
            count = int(masks[site].sum())
            masks[site][self._idle[site]] = mask[start : start + count]
            start += count
        return masks

    def _limited(self, mask: Tensor, moved: Tensor, size: int) -> Tensor:
        """Return a mask of the entries that moved furthest among those of a mask, where these are more than may be owned."""
        limit = max(1, int(self._trimming.most * size))
        if int(mask.sum()) <= limit:
            return mask
        furthest = moved.abs().masked_fill(~mask, -1).topk(limit).indices
        return torch.zeros_like(mask).index_fill_(0, furthest, True)

    def _block(self, masks: Mapping[str, Tensor]) -> None:
        self._blocked = {site: ~masks[site].to(b.device) for site, b in self._b.items()}

    def _summary(self) -> str:
        found = self.recorded()
        return f"{found['owned']:.1%} of {found['entries']} entries for this task, {found['idle']:.1%} stay idle"


def warmup_steps(trimming: Trimming, rows: int, batch: int, steps: int) -> int:
    """Return how many optimizer steps the warm-up takes, from 1 to half of the run.

    Args:
        trimming: Says how many passes over the rows.
        rows: Number of training rows.
        batch: Rows of an optimizer step.
        steps: Optimizer steps of the run, at least 1.
    """
    return min(math.ceil(trimming.warmup * rows / batch), max(1, steps // 2))
