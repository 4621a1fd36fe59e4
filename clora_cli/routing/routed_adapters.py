"""Apply adapters input by input, weighed by the inputs' features (layer L1)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from clora_cli.algebra.lora import Factor
from clora_cli.base.errors import OptionError
from clora_cli.data import Example
from clora_cli.model.bank import AdapterBank
from clora_cli.model.capture import pooled
from clora_cli.routing.guide import Guide
from clora_cli.routing.weights import Routing, routed_site
from clora_cli.store.adapter_folder import AdapterFolder

__all__ = ["Gates", "RoutedAdapters"]

_MOST = 32  # adapters kept in the model; packages of more load what is asked for
_CACHE = 1 << 30  # bytes of features kept from one stage of a sequence to the next


@dataclass(frozen=True, eq=False)
class Gates:
    """Weighs adapters for one batch of inputs after another; called before each.

    Attributes:
        weigh: A function of the batch's rows among the inputs and their attention mask, shape (row, token).
        within: Whether the pass that follows decides, which must be over prompts alone.
    """

    weigh: Callable[[list[int], Tensor], None]
    within: bool

    def __call__(self, rows: list[int], mask: Tensor) -> None:
        """Weigh the adapters for the rows of a batch."""
        self.weigh(rows, mask)


class RoutedAdapters:
    """Puts the adapters that a batch of inputs asks for into the model, with each input's weights.

    Under ``source base`` the weights come from a pass of the base model alone, done once for all inputs of a task and
    remembered; under ``adapted`` from the very pass that answers, whose prompt decides for the whole answer.

    Args:
        bank: The base model's bank.
        guide: Reads features of inputs.
        members: The adapters that ``guide`` knows, in its order.
    """

    def __init__(self, bank: AdapterBank, guide: Guide, members: Sequence[AdapterFolder]) -> None:
        self._bank, self._guide, self._members = bank, guide, members
        self._order = [name for name, _ in guide.backbone.model.named_modules()]
        self._places: dict[str, str] = {}
        self._deltas: dict[int, Mapping[str, Factor | Tensor]] = {}
        self._active: list[int] = []
        self._features: dict[str, dict[str, Tensor]] = {}
        self._fitted: dict[tuple[int, float | None], Routing] = {}

    def gates(
        self, name: str, examples: Sequence[Example], count: int, *, chat: bool = False, threshold: float | None = None
    ) -> Gates:
        """Return what to call before each batch of inputs.

        Args:
            name: The inputs' name, under which their features are remembered.
            examples: The inputs.
            count: The first so many adapters take part.
            chat: Use the tokenizer's chat template.
            threshold: See ``Routing``.
        """
        routing = self._routing(count, threshold)
        if self._guide.record.source == "adapted":
            if threshold is not None:
                raise OptionError(
                    "--abstain: distributions made with --source adapted cannot recognise far inputs before a forward pass; "
                    "make them with --source base",
                    code="abstain-needs-base-features",
                )
            return Gates(lambda rows, mask: self._decide_within(routing, count, mask), within=True)
        weights = routing.weights(routing.similarities(self._known(name, examples, chat)))
        return Gates(lambda rows, mask: self._use({site: one[rows] for site, one in weights.items()}), within=False)

    def _routing(self, count: int, threshold: float | None) -> Routing:
        if (count, threshold) not in self._fitted:
            self._fitted = {(count, threshold): self._guide.routing(count, threshold)}  # one stage after another
        return self._fitted[count, threshold]

    def _known(self, name: str, examples: Sequence[Example], chat: bool) -> dict[str, Tensor]:
        if name not in self._features:
            with self._bank.only(None):
                found = self._guide.features(examples, chat=chat, shared=True)
            size = sum(one.nbytes for kept in (*self._features.values(), found) for one in kept.values())
            if size > _CACHE:
                self._features.clear()
            self._features[name] = found
        return self._features[name]

    def _use(self, weights: Mapping[str, Tensor]) -> None:
        """Activate at least the adapters that have a weight, and set the gates."""
        asked = torch.stack([one.any(dim=0) for one in weights.values()]).any(dim=0).nonzero()[:, 0].tolist()
        self._activate(asked)
        device = self._guide.backbone.device
        active = {site: self._of_active(one).to(device) for site, one in weights.items()}
        self._bank.gate({site: active[self._place(site, tuple(weights))] for site in self._bank.sites})

    def _activate(self, asked: Sequence[int]) -> None:
        if set(asked) <= set(self._active):
            return
        if len(self._members) <= _MOST:
            # All at once, so that what was read need not be kept: of parts of one LoRA the model then holds one LoRA.
            self._active = list(range(len(self._members)))
            self._bank.activate([member.deltas() for member in self._members])
            return
        together = sorted({*self._active, *asked})
        self._active = together if len(together) <= _MOST else list(asked)
        self._deltas = {
            number: self._deltas[number] if number in self._deltas else self._members[number].deltas()
            for number in self._active
        }
        self._bank.activate([self._deltas[number] for number in self._active])

    def _of_active(self, weights: Tensor) -> Tensor:
        """Return the active adapters' columns; adapters of later stages than the weights know have none, and weigh 0."""
        return functional.pad(weights, (0, len(self._members) - weights.shape[1]))[:, self._active]

    def _decide_within(self, routing: Routing, count: int, mask: Tensor) -> None:
        self._activate(range(count))
        found: dict[str, Tensor] = {}

        def choose(site: str, output: Tensor | None) -> Tensor:
            place = self._place(site, routing.sites)
            if place == site and output is not None:
                similarities = routing.similarities({site: pooled(output, mask, self._guide.record.pool).cpu()})
                found[site] = self._of_active(routing.weights(similarities)[site])
            if place not in found:
                raise OptionError(
                    f"--route-layer: the distributions were taken with --source adapted, where '{place}' cannot decide for "
                    f"'{site}', which comes before it; pass --route-layer all",
                    code="route-layer-too-late",
                )
            return found[place]

        self._bank.gate_by(choose)

    def _place(self, site: str, deciding: Sequence[str]) -> str:
        if site not in self._places:
            self._places[site] = routed_site(site, deciding, self._order)
        return self._places[site]
