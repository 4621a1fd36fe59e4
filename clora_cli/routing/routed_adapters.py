"""Apply adapters input by input, weighed by the inputs' features (layer L1)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from clora_cli.data import Example
from clora_cli.model.bank import AdapterBank
from clora_cli.routing.guide import Guide
from clora_cli.routing.mixed_adapters import MixedAdapters
from clora_cli.routing.weights import Routing
from clora_cli.store.adapter_folder import AdapterFolder

__all__ = ["Gates", "RoutedAdapters"]

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
        self._bank, self._guide = bank, guide
        self._mixed = MixedAdapters(bank, guide.backbone, members)
        self._features: dict[tuple[bool, tuple[Example, ...]], dict[str, Tensor]] = {}
        self._fitted: dict[tuple[int, float | None], Routing] = {}

    def gates(
        self, examples: Sequence[Example], count: int, *, chat: bool = False, threshold: float | None = None
    ) -> Gates:
        """Return what to call before each batch of inputs.

        Args:
            examples: The inputs; their features are remembered.
            count: The first so many adapters take part.
            chat: Use the tokenizer's chat template.
            threshold: See ``Routing``.
        """
        routing = self._routing(count, threshold)
        if self._guide.record.source == "adapted":
            pool = self._guide.record.pool

            def decide(rows: list[int], mask: Tensor) -> None:
                self._mixed.decide_within(routing, pool, count, mask)

            return Gates(decide, within=True)
        weights = routing.weights(routing.similarities(self._known(chat, tuple(examples))))
        return Gates(
            lambda rows, mask: self._mixed.use({site: one[rows] for site, one in weights.items()}), within=False
        )

    def _routing(self, count: int, threshold: float | None) -> Routing:
        if (count, threshold) not in self._fitted:
            self._fitted = {(count, threshold): self._guide.routing(count, threshold)}  # one stage after another
        return self._fitted[count, threshold]

    def _known(self, chat: bool, examples: tuple[Example, ...]) -> dict[str, Tensor]:
        if (chat, examples) not in self._features:
            with self._bank.only(None):
                found = self._guide.features(examples, chat=chat, shared=True)
            size = sum(one.nbytes for kept in (*self._features.values(), found) for one in kept.values())
            if size > _CACHE:
                self._features.clear()
            self._features[chat, examples] = found
        return self._features[chat, examples]
