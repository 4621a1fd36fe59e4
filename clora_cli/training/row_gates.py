"""Adapters mixed row by row while a new one is trained (layer L3)."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from clora_cli.algebra.statistics import Moments, SecondMoment
from clora_cli.base import registry
from clora_cli.data import uses_chat
from clora_cli.methods import Gating
from clora_cli.model.backbone import Backbone, find_sites
from clora_cli.model.bank import AdapterBank
from clora_cli.model.features import collect_moments, prompt_ids, prompt_sites, read_features
from clora_cli.routing.weights import Routing, common_sites, routed_site
from clora_cli.store.distribution import Distribution, Taking, read_distribution, read_sites
from clora_cli.store.feature_record import FeatureRecord
from clora_cli.training.plan import Plan

__all__ = ["Gates", "read_gates"]


class Gates:
    """Each training row's weights over the earlier adapters and the new one, the last.

    Args:
        distribution: The new adapter's.
        weights: Deciding site to weights, shape (row, adapter), float32.
        order: All modules of the base model in its order.

    Attributes:
        chosen: Numbers of the earlier adapters, from 0, in the order of the weights.
    """

    def __init__(self, distribution: Distribution, weights: Mapping[str, Tensor], order: Sequence[str]) -> None:
        self.distribution = distribution
        self._weights, self._order = weights, order
        self.chosen = tuple(range(next(iter(weights.values())).shape[1] - 1))
        self._bank: AdapterBank | None = None
        self._places: dict[str, str] = {}
        self._new: dict[str, Tensor] = {}

    def narrow(self) -> None:
        """Forget the earlier adapters that no row gives any weight: they need not even be read."""
        weighty = torch.stack([(weights != 0).any(dim=0) for weights in self._weights.values()]).any(dim=0)
        kept = [number for number, some in enumerate(weighty[:-1].tolist()) if some]
        self._weights = {site: weights[:, [*kept, -1]] for site, weights in self._weights.items()}
        self.chosen = tuple(self.chosen[number] for number in kept)

    def attach(self, bank: AdapterBank, inner: Mapping[str, nn.Module]) -> None:
        """Let the gates act.

        Args:
            bank: The chosen earlier adapters.
            inner: Site to the new adapter's ``lora_A`` layer, whose output is weighed.
        """
        self._bank = bank
        self._places = {site: routed_site(site, list(self._weights), self._order) for site in {*inner, *bank.sites}}
        for site, layer in inner.items():
            layer.register_forward_hook(self._weigh(site))

    def before(self, rows: Tensor) -> None:
        """Set the gates of a batch; ``rows`` are numbers of training rows, shape (input,)."""
        chosen = {site: weights[rows.cpu()].to(rows.device) for site, weights in self._weights.items()}
        self._new = {site: weights[:, -1] for site, weights in chosen.items()}
        if self._bank is not None and self._bank.sites:
            self._bank.gate({site: chosen[self._places[site]][:, :-1] for site in self._bank.sites})

    def _weigh(self, site: str) -> Any:
        def weigh(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
            return output * self._new[self._places[site]].to(output)[:, None, None]

        return weigh


def read_gates(plan: Plan, backbone: Backbone) -> Gates | None:
    """Take the new task's feature distribution and every row's weights, from the bare base model.

    Returns:
        None if the method does not route.

    Raises:
        CloraError: If earlier adapters' distributions do not compare with the new one, or no layer decides.
    """
    gating = plan.method.lead.gating()
    if gating is None:
        return None
    chat = uses_chat(plan.task, backbone.tokens)
    ids = prompt_ids(backbone, plan.rows, text=gating.text, max_length=plan.options.max_length, chat=chat)
    linear = {**find_sites(backbone.model), **find_sites(backbone.model, plan.options.target_modules)}
    sites = prompt_sites(backbone, linear)
    new = collect_moments(backbone, ids, sites, second=_second(gating), pool=gating.pool)
    weights = _weights(plan, backbone, gating, ids, new)
    order = [name for name, _ in backbone.model.named_modules()]
    return Gates(Distribution(new, _record(plan, backbone, gating)), weights, order)


def _record(plan: Plan, backbone: Backbone, gating: Gating) -> FeatureRecord:
    taking = Taking(
        pool=gating.pool,
        text=gating.text,
        second_moment=_second(gating),
        max_length=plan.options.max_length,
        dtype=str(backbone.dtype).removeprefix("torch."),
    )
    return taking.recorded(plan.reference, [plan.drawn.recorded()])


def _weights(
    plan: Plan, backbone: Backbone, gating: Gating, ids: Sequence[Sequence[int]], new: Mapping[str, Moments]
) -> dict[str, Tensor]:
    if not plan.past or (gating.always and gating.train.top_k == 1 and not _needs_second(gating)):
        alone = torch.zeros(len(ids), len(plan.past) + 1)
        alone[:, -1] = 1
        return dict.fromkeys(common_sites([new], gating.train), alone)
    deciding = common_sites([*(read_sites(member.features) for member in plan.past), new], gating.train)
    past = (read_distribution(member.features, deciding).sites for member in plan.past)
    routing = Routing(itertools.chain(past, [new]), deciding, gating.train)
    found = {site: torch.empty(len(ids), len(plan.past) + 1) for site in deciding}
    for rows, features in read_features(backbone, ids, deciding, pool=gating.pool):
        always = len(plan.past) if gating.always else None
        # Distributions are in float64, which not every accelerator has.
        similarities = routing.similarities({site: feature.cpu() for site, feature in features.items()})
        for site, weights in routing.weights(similarities, always).items():
            found[site][rows] = with_floor(weights, gating.floor)
    return found


def with_floor(weights: Tensor, floor: float) -> Tensor:
    """Raise the last adapter's weight to a floor in [0, 1), the others sharing the rest as before; rows keep their sum."""
    last = weights[:, -1:].clamp(min=floor)
    rest = weights[:, :-1]
    return torch.cat([rest * ((1 - last) / rest.sum(dim=1, keepdim=True).clamp(min=1e-30)), last], dim=1)


def _second(gating: Gating) -> SecondMoment:
    if gating.second_moment is not None:
        return gating.second_moment
    return "full" if _needs_second(gating) else "none"


def _needs_second(gating: Gating) -> bool:
    name = gating.train.similarity
    return name != "auto" and registry.bound("routers", name).needs_second
