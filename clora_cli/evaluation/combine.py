"""How adapters take part when a package is evaluated (layer L3)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from clora_cli.base import registry
from clora_cli.base.errors import MismatchError
from clora_cli.data import Task
from clora_cli.evaluation.prompts import Before, Prompts
from clora_cli.merges import Merger
from clora_cli.model.backbone import Backbone
from clora_cli.model.bank import AdapterBank
from clora_cli.model.base_layers import BaseLayers
from clora_cli.options import RouteOptions, merges
from clora_cli.routing.fixed_weights import fixed_weights
from clora_cli.routing.guide import Guide
from clora_cli.routing.routed_adapters import RoutedAdapters
from clora_cli.store.adapter_folder import AdapterFolder

__all__ = ["Combination", "Fixed", "Routed", "active", "merger_of"]


def active(members: Sequence[AdapterFolder], combine: str, task: str) -> list[AdapterFolder]:
    """Return the adapters that a combination uses for a task; one that needs the task's identity gives an unknown task none."""
    if combine == "last":
        return list(members[-1:])
    if combine == "task-id":
        return [member for member in members if member.task == task]
    if combine == "progressive":
        own = next((member for member in members if member.task == task), None)
        below = {parent.sha256 for parent in own.manifest.parents} if own and own.manifest else set()
        return [member for member in members if member is own or member.digest in below]
    return [] if combine == "none" else list(members)


def merger_of(members: Sequence[AdapterFolder], combine: str, layers: BaseLayers | None) -> Merger:
    """Return the merge of adapters that ``clora merge --strategy`` with this name and default options makes."""
    return Merger(merge=registry.load("merges", combine)(), members=members, layers=layers)


class Combination(Protocol):
    """Puts adapters into the base model."""

    def use(self, adapters: Sequence[AdapterFolder], prompts: Prompts) -> tuple[Prompts, Before | None]:
        """Make these adapters act on a task's prompts.

        Args:
            adapters: From ``active``.
            prompts: What will be answered.

        Returns:
            The prompts, with soft prompts before them where the adapters are such; and a function to call before each batch, or None.
        """


class Fixed:
    """Adds adapters up, weighted or not, or merges them, for all inputs alike; they stay loaded while the same ones are asked for.

    Args:
        bank: The base model's bank.
        members: The adapters.
        combine: How.
        layers: The base model's, for merges.
    """

    def __init__(
        self, bank: AdapterBank, members: Sequence[AdapterFolder], combine: str, layers: BaseLayers | None = None
    ) -> None:
        self._bank, self._combine, self._layers = bank, combine, layers
        self._deltas = {member.path: member.deltas() for member in members} if combine not in merges() else {}
        self._now: tuple[Path, ...] | None = None

    def use(self, adapters: Sequence[AdapterFolder], prompts: Prompts) -> tuple[Prompts, None]:
        """Make these adapters act."""
        paths = tuple(adapter.path for adapter in adapters)
        if paths == self._now and self._bank.holder is self:
            return prompts, None
        if adapters and self._combine in merges():
            found = merger_of(adapters, self._combine, self._layers).sites()
            self._bank.activate([{one.site: one.delta for one in found}])
        else:
            self._bank.activate([self._deltas[path] for path in paths])
            if adapters and self._combine == "weighted":
                self._bank.gate(self._weights(adapters))
        self._now, self._bank.holder = paths, self
        return prompts, None

    def _weights(self, adapters: Sequence[AdapterFolder]) -> dict[str, Tensor]:
        weights = fixed_weights(adapters)
        if missing := sorted(set(self._bank.sites) - set(weights)):
            raise MismatchError(
                f"adapter {adapters[-1].path} has no weights for layer '{missing[0]}'; train it again",
                code="mixing-weights-missing",
            )
        return weights


class Routed:
    """Lets each input choose among the adapters.

    Args:
        backbone: The base model.
        bank: Its bank.
        members: The adapters.
        options: How.
        calibration: Tasks of whose dev rows the share ``options.abstain`` may get no adapter; none to never abstain.
    """

    def __init__(
        self,
        backbone: Backbone,
        bank: AdapterBank,
        members: Sequence[AdapterFolder],
        options: RouteOptions,
        calibration: Sequence[Task] = (),
    ) -> None:
        guide = Guide(backbone.reference, members, options, backbone=backbone)
        self._threshold = guide.threshold(guide.routing(), calibration)[0] if calibration else None
        self._bank, self._adapters = bank, RoutedAdapters(bank, guide, members)

    def use(self, adapters: Sequence[AdapterFolder], prompts: Prompts) -> tuple[Prompts, Before | None]:
        """Let inputs choose among these adapters, the first ones of the package."""
        if not adapters:
            self._bank.clear()
            return prompts, None
        given: Any = {"chat": prompts.chat, "threshold": self._threshold}
        return prompts, self._adapters.gates(prompts.examples, len(adapters), **given)
