"""A package as one version of it was read (layer L3): whole, or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from clora_cli.base.errors import CloraError, MismatchError
from clora_cli.model.backbone import Backbone
from clora_cli.model.bank import AdapterBank
from clora_cli.model.base_model import check_base
from clora_cli.model.company import accompanied, takes_company
from clora_cli.options import ServeOptions
from clora_cli.routing.guide import Guide
from clora_cli.routing.inputs import Input
from clora_cli.routing.mixed_adapters import MixedAdapters
from clora_cli.routing.route_settings import calibration_tasks, route_options
from clora_cli.serving.asked import Choice
from clora_cli.serving.chooser import Chooser, Placed
from clora_cli.serving.verdict import Verdict
from clora_cli.store.adapter_folder import AdapterFolder
from clora_cli.store.heads import check_heads
from clora_cli.store.package import marks
from clora_cli.store.steady import identity, mark

__all__ = ["Held"]

_EVERYWHERE = ""  # stands for all sites where none decides


class Held:
    """One version of a package, checked and ready to answer.

    Args:
        members: The adapters, by stage.
        backbone: The base model.
        bank: Its bank; empty, or of another version, which this one replaces when it first answers.
        options: How to answer.

    Attributes:
        names: The adapters' names.
        version: Changes with every file of the package.
        unrouted: Why prompts cannot choose among these adapters; empty if they can.

    Raises:
        CloraError: If an adapter is damaged, or does not fit the base model.
    """

    def __init__(
        self, members: Sequence[AdapterFolder], backbone: Backbone, bank: AdapterBank, options: ServeOptions
    ) -> None:
        for member in members:
            check_base(member.base, backbone.reference, member.path)
        check_heads(members, backbone.reference)
        self.members = [member.on(bank.places) for member in members]
        self.names = [member.task for member in members]
        self.version = _version(members, backbone.reference.fingerprint)
        self._backbone, self._bank, self._options = backbone, bank, options
        self.unrouted = ""
        self._chooser: tuple[Chooser, Guide] | None = None
        try:
            self._chooser = self._choosing() if options.combine == "route" else None
        except CloraError as error:
            self.unrouted = str(error)
        self.mixed = MixedAdapters(bank, backbone, self.members)
        self._places = {member.path: _place(member) for member in members}
        self._in_time: bool | None = None
        self._keeps_company = backbone.kind == "causal" and not backbone.sharded and takes_company(backbone.model)

    def decides_beside(self, ids: Sequence[int]) -> bool:
        """Tell whether the pass that answers a prompt can decide by a copy of it, with the same result as a pass before."""
        if self._chooser is None or not self._keeps_company:
            return False
        chooser, guide = self._chooser
        if chooser.routing.threshold is not None or not guide.reads(ids):
            return False
        if self._in_time is None:
            self._in_time = self.mixed.decides_beside(chooser.routing.sites)
        return self._in_time

    @property
    def nobody(self) -> dict[str, Tensor]:
        """Weights of no prompts."""
        return {_EVERYWHERE: torch.zeros(0, len(self.names))}

    @property
    def decides_within(self) -> bool:
        """Whether the forward pass that answers decides, as for distributions made with ``--source adapted``."""
        return self._chooser is not None and self._chooser[1].record.source == "adapted"

    def activate(self) -> None:
        """Replace what the model holds by these adapters; by none if they are too many to be there at once.

        Raises:
            CloraError: If one of them is damaged; then the model holds what it held.
        """
        if self.mixed.holds_all:
            self.mixed.activate(range(len(self.members)))
        else:
            self._bank.clear()

    def is_there(self) -> bool:
        """Tell whether every adapter is still on disk as it was read, its weights too."""
        return self._places == {member.path: _place(member) for member in self.members}

    def chooses(self, choice: Choice) -> bool:
        """Tell whether a prompt chooses by its features.

        Raises:
            MismatchError: If it should, and cannot.
        """
        if not choice.auto or self._options.combine != "route":
            return False
        if self.unrouted:
            raise MismatchError(
                f"model auto: prompts cannot choose among these adapters: {self.unrouted}",
                code="served-package-unrouted",
            )
        return True

    def place(self, inputs: Sequence[Input], choices: Sequence[Choice], *, full: bool = False) -> Placed:
        """Decide where prompts go.

        Args:
            inputs: The prompts, at least one.
            choices: What each asks for.
            full: Whether verdicts hold all adapters' weights at every site, not the largest ones alone.

        Raises:
            CloraError: If a prompt that chooses cannot be read.
        """
        routed = [row for row, choice in enumerate(choices) if self.chooses(choice)]
        weights, verdicts = self._fixed(choices)
        if routed:
            found = self._chosen([inputs[row] for row in routed], full)
            weights = {site: weights[_EVERYWHERE].clone() for site in found.weights}
            for site, chosen in found.weights.items():
                weights[site][routed] = chosen
            for row, verdict in zip(routed, found.verdicts, strict=True):
                verdicts[row] = verdict
        return Placed(verdicts, weights)

    def place_within(self, mask: Tensor) -> Callable[[], Placed]:
        """Let the next forward pass decide for all prompts of a batch; return what tells afterwards how it did.

        Args:
            mask: Their attention mask, shape (prompt, token).
        """
        chooser, guide = self._choosers()
        found = self.mixed.decide_within(chooser.routing, guide.record.pool, len(self.members), mask)
        return lambda: chooser.after(found)

    def place_beside(
        self, others: Mapping[str, Tensor], rows: Sequence[int], inputs: Sequence[Input], mask: Tensor
    ) -> tuple[Callable[[], Placed], contextlib.AbstractContextManager[None]]:
        """Let the next forward pass decide for some prompts of a batch by copies of them.

        Args:
            others: Deciding site to the weights of all prompts, of which those of ``rows`` do not count.
            rows: The prompts' numbers in the batch.
            inputs: These prompts.
            mask: The batch's attention mask, shape (prompt, token).

        Returns:
            What tells afterwards where they went, and what is to be around that pass.
        """
        chooser, guide = self._choosers()
        numbers = torch.tensor(rows, device=mask.device)
        found = self.mixed.decide_beside(chooser.routing, guide.record.pool, others, rows, mask[numbers])
        placed: list[Placed] = []

        def then() -> None:
            placed.append(chooser.by({site: found[site] for site in chooser.routing.sites}, inputs))
            weights = {}
            for site, chosen in placed[0].weights.items():
                weights[site] = others.get(site, next(iter(others.values()))).clone()
                weights[site][rows] = chosen
            self.mixed.use(weights)

        return lambda: placed[0], accompanied(self._backbone.model, numbers, len(mask), then)

    def _choosers(self) -> tuple[Chooser, Guide]:
        if self._chooser is None:
            raise RuntimeError("prompts choose among adapters that have no profiles")
        return self._chooser

    def _choosing(self) -> tuple[Chooser, Guide]:
        how = route_options(self.members, self._options.route)
        guide = Guide(
            self._backbone.reference, self.members, how, backbone=self._backbone, batch_size=self._options.batch_size
        )
        tasks = calibration_tasks(self.members, how, self._options.calibrate, self._options.columns)
        with self._bank.only(None):
            threshold = guide.threshold(guide.routing(), tasks)[0] if tasks else None
        shown = route_options(self.members, self._options.route, top_k=0).top_k
        return Chooser(guide.routing(threshold=threshold), shown, self.names, self.version), guide

    def _fixed(self, choices: Sequence[Choice]) -> tuple[dict[str, Tensor], list[Verdict]]:
        scales = [self._scales(choice) for choice in choices]
        weights = torch.zeros(len(choices), len(self.names))
        for row, by_name in enumerate(scales):
            for name, scale in by_name.items():
                weights[row, self.names.index(name)] = scale
        pairs = zip(choices, scales, strict=True)
        return {_EVERYWHERE: weights}, [self._named_verdict(choice, by_name) for choice, by_name in pairs]

    def _scales(self, choice: Choice) -> Mapping[str, float]:
        if not choice.auto:
            return choice.scales
        return dict.fromkeys(self.names[-1:] if self._options.combine == "last" else self.names, 1.0)

    def _named_verdict(self, choice: Choice, scales: Mapping[str, float]) -> Verdict:
        best = max(scales, key=lambda name: scales[name], default=None)
        reason = f"--combine {self._options.combine}" if choice.auto else "the request names it"
        return Verdict(best, 1.0, reason, self.version, used=scales)

    def _chosen(self, inputs: Sequence[Input], full: bool) -> Placed:
        chooser, guide = self._choosers()
        with self._bank.only(None):
            features = guide.of_inputs(inputs)
        return chooser.among(features, inputs, full=full)


def _place(member: AdapterFolder) -> object:
    return identity(member.path), mark(member.weights)


def _version(members: Sequence[AdapterFolder], base: str) -> str:
    told = json.dumps([base, marks(members)], sort_keys=True)
    return hashlib.sha256(told.encode()).hexdigest()[:12]
