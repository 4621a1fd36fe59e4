"""Adapters added up with weights that the last one of them was trained with (layer L1)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from clora_cli.base.errors import MismatchError
from clora_cli.store.adapter_folder import AdapterFolder

__all__ = ["KEY", "fixed_weights"]

KEY = "weights"  # <KEY>/<site> in state.clora: one weight for each of the manifest's parents, then the adapter's own


def fixed_weights(adapters: Sequence[AdapterFolder]) -> dict[str, Tensor]:
    """Return the weights that the last of some adapters gives to all of them, by site, shape (1, adapter), float32.

    A parent that is not among them, because its task was unlearned, is left out.

    Args:
        adapters: By stage, at least one.

    Raises:
        MismatchError: If the last keeps no weights, or another one is not among its parents as it is now.
    """
    last = adapters[-1]
    kept = {key.partition("/")[2]: tensor for key, tensor in last.state().items() if key.startswith(f"{KEY}/")}
    if not kept or last.manifest is None:
        raise MismatchError(
            f"adapter {last.path} keeps no weights for a weighted sum; pass another --combine",
            code="mixing-weights-missing",
        )
    known = [parent.sha256 for parent in last.manifest.parents] + [last.digest]
    if odd := next((adapter for adapter in adapters if adapter.digest not in known), None):
        raise MismatchError(
            f"adapter {last.path} has no weight for {odd.path}, which was absent or different when it was trained; "
            "train it again, or pass another --combine",
            code="mixing-weights-missing",
        )
    places = [known.index(adapter.digest) for adapter in adapters]
    if odd_site := next((site for site, tensor in kept.items() if tensor.shape != (len(known),)), None):
        raise MismatchError(
            f"adapter {last.path} does not have one weight for each adapter at '{odd_site}'; train it again",
            code="mixing-weights-miscounted",
        )
    return {site: tensor.float()[None, places] for site, tensor in kept.items()}
