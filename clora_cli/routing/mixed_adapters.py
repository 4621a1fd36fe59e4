"""Adapters in the base model, each input with weights of its own (layer L1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from clora_cli.algebra.lora import Factor
from clora_cli.base.errors import OptionError
from clora_cli.model.backbone import Backbone
from clora_cli.model.bank import AdapterBank
from clora_cli.model.capture import pooled
from clora_cli.routing.weights import Routing, routed_site
from clora_cli.store.adapter_folder import AdapterFolder
from clora_cli.store.feature_record import Pool

__all__ = ["MixedAdapters"]

_MOST = 32  # adapters kept in the model; packages of more load what is asked for


class MixedAdapters:
    """Puts the adapters that a batch of inputs asks for into the model, with each input's weights.

    Args:
        bank: The base model's bank.
        backbone: The base model.
        members: The adapters.
    """

    def __init__(self, bank: AdapterBank, backbone: Backbone, members: Sequence[AdapterFolder]) -> None:
        self._bank, self._device, self._members = bank, backbone.device, members
        self._order = [name for name, _ in backbone.model.named_modules()]
        self._places: dict[str, str] = {}
        self._deltas: dict[int, Mapping[str, Factor | Tensor]] = {}
        self._active: list[int] = []

    def use(self, weights: Mapping[str, Tensor]) -> None:
        """Activate at least the adapters that have a weight, and set the gates.

        Args:
            weights: Deciding site to weights, shape (input, adapter); one site decides for all.
        """
        asked = torch.stack([one.any(dim=0) for one in weights.values()]).any(dim=0).nonzero()[:, 0].tolist()
        self.activate(asked)
        active = {site: self.of_active(one).to(self._device) for site, one in weights.items()}
        self._bank.gate({site: active[self.place(site, tuple(weights))] for site in self._bank.sites})

    def decide_within(self, routing: Routing, pool: Pool, count: int, mask: Tensor) -> Mapping[str, Tensor]:
        """Activate the first ``count`` adapters, and let the next forward pass decide by its own features.

        Args:
            routing: Weighs these adapters.
            pool: How features are pooled.
            count: At least one.
            mask: The batch's attention mask, shape (input, token).

        Returns:
            Deciding site to weights, shape (input, adapter); that pass fills it.

        Raises:
            OptionError: In that pass, if a site that decides comes after one for which it does.
        """
        self.activate(range(count))
        found: dict[str, Tensor] = {}

        def choose(site: str, output: Tensor | None) -> Tensor:
            place = self.place(site, routing.sites)
            if place == site and output is not None:
                similarities = routing.similarities({site: pooled(output, mask, pool).cpu()})
                found[site] = routing.weights(similarities)[site]
            if place not in found:
                raise OptionError(
                    f"--route-layer: the distributions were taken with --source adapted, where '{place}' cannot decide for "
                    f"'{site}', which comes before it; pass --route-layer all",
                    code="route-layer-too-late",
                )
            return self.of_active(found[place])

        self._bank.gate_by(choose)
        return found

    def decides_beside(self, deciding: Sequence[str]) -> bool:
        """Tell whether every adapted site's weights are known when a pass reaches it, of a pass that reads features as it goes."""
        if len(self._active) < len(self._members):
            return False
        place = {name: number for number, name in enumerate(self._order)}
        adapted = set(self._bank.sites)
        in_time = all(place[self.place(site, deciding)] <= place.get(site, -1) for site in adapted)
        return in_time and adapted.issuperset(deciding)

    def decide_beside(
        self, routing: Routing, pool: Pool, others: Mapping[str, Tensor], rows: Sequence[int], mask: Tensor
    ) -> Mapping[str, Tensor]:
        """Let the next forward pass weigh some rows by the features of copies of them, which stand behind the batch.

        Args:
            routing: Weighs all adapters, at sites of which ``decides_beside`` is true.
            pool: How features are pooled.
            others: As for ``use``, of the whole batch; what it says of ``rows`` does not count.
            rows: Which rows have a copy.
            mask: The copies' attention mask, shape (copy, token).

        Returns:
            Deciding site to the copies' similarities, shape (copy, adapter); that pass fills it.
        """
        found: dict[str, Tensor] = {}
        chosen: dict[str, Tensor] = {}
        copies = torch.zeros(len(rows), len(self._members))  # no adapter changes what decides

        def choose(site: str, output: Tensor | None) -> Tensor:
            place = self.place(site, routing.sites)
            if place == site and output is not None:
                features = pooled(output[-len(rows) :], mask, pool).cpu()
                found.update(routing.similarities({site: features}))
                weights = others.get(site, next(iter(others.values()))).clone()
                weights[rows] = routing.weights({site: found[site]})[site]
                chosen[site] = torch.cat([weights, copies])
            return self.of_active(chosen[place])

        self._bank.gate_by(choose)
        return found

    @property
    def holds_all(self) -> bool:
        """Whether there is room for all adapters at once."""
        return len(self._members) <= _MOST

    def activate(self, asked: Sequence[int]) -> None:
        """Put adapters into the model beside those that are there, as far as there is room."""
        if self._bank.holder is not self:
            self._active = []  # somebody else cleared the bank, or put adapters of his own into it
        if set(asked) <= set(self._active):
            return
        # What cannot be read leaves the model, and what is known of it, as they are.
        if self.holds_all:
            # All at once, so that what was read need not be kept: of parts of one LoRA the model then holds one LoRA.
            self._bank.activate([member.deltas() for member in self._members])
            self._hold(range(len(self._members)))
            return
        together = sorted({*self._active, *asked})
        active = together if len(together) <= _MOST else list(asked)
        self._deltas = {
            number: self._deltas[number] if number in self._deltas else self._members[number].deltas()
            for number in active
        }
        self._bank.activate([self._deltas[number] for number in active])
        self._hold(active)

    def _hold(self, active: Sequence[int]) -> None:
        self._active, self._bank.holder = list(active), self

    def of_active(self, weights: Tensor) -> Tensor:
        """Return the active adapters' columns; adapters of later stages than the weights know have none, and weigh 0."""
        return functional.pad(weights, (0, len(self._members) - weights.shape[1]))[:, self._active]

    def place(self, site: str, deciding: Sequence[str]) -> str:
        """Return the deciding site whose weights an adapted site takes."""
        if len(deciding) == 1:
            return deciding[0]
        if site not in self._places:
            self._places[site] = routed_site(site, deciding, self._order)
        return self._places[site]
