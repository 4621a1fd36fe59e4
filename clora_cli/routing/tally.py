"""Count inputs and average their weights by task while they are routed, keeping no input (layer L1)."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from clora_cli.model.features import layer_of
from clora_cli.routing.decided import Decided, mean_over
from clora_cli.store.routes import Routes

__all__ = ["Tally", "panels_of"]


class Tally:
    """Adds up where inputs go; its size depends on the numbers of tasks and adapters alone.

    Args:
        adapters: The adapters' names.
        knows: For each adapter, the tasks that it knows.
        panels: Parts of the deciding sites whose weights are added up on their own.
    """

    def __init__(
        self, adapters: Sequence[str], knows: Sequence[Collection[str]], panels: Mapping[str, Sequence[str]]
    ) -> None:
        self._adapters, self._knows, self._panels = adapters, knows, panels
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, Tensor] = {}

    def add(self, decided: Decided) -> None:
        """Add one batch."""
        rows: dict[str, list[int]] = {}
        for row, one in enumerate(decided.inputs):
            rows.setdefault(one.task, []).append(row)
        chosen = torch.tensor([len(self._adapters) if one is None else one for one in decided.chosen])
        parts = [decided.weights, *(mean_over(decided.sites, sites) for sites in self._panels.values())]
        stacked = torch.stack(parts, dim=1).double()
        for task, numbers in rows.items():
            counts = torch.bincount(chosen[numbers], minlength=len(self._adapters) + 1)
            self._counts[task] = self._counts.get(task, 0) + counts
            self._sums[task] = self._sums.get(task, 0) + stacked[numbers].sum(dim=0)

    def routes(self, settings: Mapping[str, Any]) -> Routes:
        """Return the sums so far."""
        knows = {task: [i for i, known in enumerate(self._knows) if task in known] for task in self._counts}
        tasks = sorted(knows, key=lambda task: knows[task][:1] or [len(self._adapters)])
        counts = [self._counts[task].tolist() for task in tasks]
        means = [(self._sums[task] / self._counts[task].sum()).tolist() for task in tasks]
        matrices = [tuple(tuple(mean[part]) for mean in means) for part in range(1 + len(self._panels))]
        return Routes(
            adapters=tuple(self._adapters),
            tasks=tuple(tasks),
            knows=tuple(tuple(knows[task]) for task in tasks),
            counts=tuple(tuple(row[:-1]) for row in counts),
            abstained=tuple(row[-1] for row in counts),
            weights=matrices[0],
            panels=dict(zip(self._panels, matrices[1:], strict=True)),
            settings=dict(settings),
        )


def panels_of(sites: Sequence[str]) -> dict[str, list[str]]:
    """Return the deciding sites by layer and kind of projection, such as ``layer 3 v_proj``; empty if all are of one layer.

    Args:
        sites: In the model's order.
    """
    panels: dict[str, list[str]] = {}
    for site in sites:
        layer, kind = layer_of(site), site.rpartition(".")[2]
        panels.setdefault(kind if layer is None else f"layer {layer} {kind}", []).append(site)
    return panels if len({layer_of(site) for site in sites}) > 1 else {}
