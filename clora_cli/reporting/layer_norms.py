"""The nuclear norm of each layer's delta (layer L3)."""

from __future__ import annotations

from collections.abc import Sequence

from clora_cli.algebra.geometry import nuclear_norm
from clora_cli.model.features import layer_of
from clora_cli.reporting.differences import distinct_labels, read_deltas
from clora_cli.store.adapter_folder import AdapterFolder

__all__ = ["layer_norms"]


def layer_norms(members: Sequence[AdapterFolder]) -> dict[str, list[tuple[str, int, float]]]:
    """Return each adapter's nuclear norms, each with the kind of its projection, such as ``v_proj``, and its layer, from 0.

    Raises:
        CloraError: If an adapter is damaged, or is no plain LoRA.
    """
    norms = {}
    for label, deltas in zip(distinct_labels(members), read_deltas(members).values(), strict=True):
        placed = sorted((layer_of(site) or 0, site) for site in deltas)
        norms[label] = [(site.rpartition(".")[2], layer, nuclear_norm(deltas[site])) for layer, site in placed]
    return norms
