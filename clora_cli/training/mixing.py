"""Adapters mixed row by row while a new one is trained (layer L3)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from clora_cli.base.errors import CloraError
from clora_cli.methods import Weigh
from clora_cli.model.bank import AdapterBank
from clora_cli.routing.weights import routed_site

__all__ = ["Mixture"]


class Mixture:
    """Weighs the earlier adapters and the new one in every forward pass of a training.

    Args:
        weigh: Gives a batch's weights.
        bank: The earlier adapters.
        inner: Site to the new adapter's ``lora_A`` layer, whose output is weighed.
        order: All modules of the base model in its order.
        count: How many earlier adapters are weighed.
    """

    def __init__(
        self, weigh: Weigh, bank: AdapterBank, inner: Mapping[str, nn.Module], order: Sequence[str], count: int
    ) -> None:
        self._weigh, self._bank, self._order, self._count = weigh, bank, order, count
        self._places: dict[str, str] = {}
        self._new: dict[str, Tensor] = {}
        for site, layer in inner.items():
            layer.register_forward_hook(self._hook(site))

    def before(self, rows: Tensor, inputs: Mapping[str, Tensor]) -> None:
        """Set the weights of a batch: the numbers of its training rows, shape (row,), and the model's arguments."""
        weights = self._weigh(rows, inputs)
        _check(weights, len(rows), 1 + self._count)
        self._new = {site: given[:, -1] for site, given in weights.items()}
        if self._bank.sites:
            self._bank.gate({site: weights[self._place(site)][:, :-1] for site in self._bank.sites})

    @contextlib.contextmanager
    def suspended(self) -> Iterator[None]:
        """For a while, leave the new adapter's output as it is; the bank's own gates are the caller's."""
        kept, self._new = self._new, {}
        try:
            yield
        finally:
            self._new = kept

    def _hook(self, site: str) -> Any:
        def weigh(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
            return output * self._new[self._place(site)].to(output)[:, None, None] if self._new else output

        return weigh

    def _place(self, site: str) -> str:
        if site not in self._places:
            self._places[site] = routed_site(site, list(self._new), self._order)
        return self._places[site]


def _check(weights: Mapping[str, Tensor], rows: int, adapters: int) -> None:
    """Refuse weights that do not say of each row, or of all alike, what every adapter counts."""
    shapes = [tuple(given.shape) for given in weights.values()] if isinstance(weights, Mapping) else []
    if not shapes or any(shape not in {(rows, adapters), (1, adapters)} for shape in shapes):
        given = f"of shape {shapes[0]}" if shapes else "for no site"
        raise CloraError(
            f"what begin() gave to run.mix() returns weights {given}; it is to return site to weights of shape "
            f"{(rows, adapters)} or {(1, adapters)}: the earlier adapters, then the new one",
            code="mix-weights-shape",
        )
