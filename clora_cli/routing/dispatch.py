"""Send inputs to adapters, batch by batch, in order (layer L1): the engine of ``clora route``."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any

from safetensors.torch import load, save
from torch import Tensor

from clora_cli.base.errors import CloraError
from clora_cli.base.progress import Progress, Silent
from clora_cli.data import Task
from clora_cli.model.backbone import load_backbone, pick_device
from clora_cli.model.base_model import check_base
from clora_cli.options import RouteOptions, RouteSettings
from clora_cli.processes.meeting import WORK, Meeting, agree, meet, together
from clora_cli.routing.decided import Decided, check_finite
from clora_cli.routing.guide import Guide
from clora_cli.routing.inputs import Input, in_batches, read_spelled, spelled
from clora_cli.routing.route_settings import tasks_known
from clora_cli.routing.tally import Tally, panels_of
from clora_cli.store.adapter_folder import AdapterFolder
from clora_cli.store.package import find_base, marks

__all__ = ["Dispatcher"]


class Dispatcher:
    """Sends inputs to adapters.

    Everything about the adapters is read and checked at once; the base model is loaded by ``start``.

    Args:
        members: The adapters, at least one, each with a feature distribution, or a task vector where these are compared.
        options: How inputs choose.
        settings: What to run on.
        progress: Told where the adapters' own word leads to the Hub, and what there is to know before inputs are sent.

    Raises:
        CloraError: If the adapters, the base model and the options do not fit together.
    """

    def __init__(
        self,
        members: Sequence[AdapterFolder],
        options: RouteOptions,
        settings: RouteSettings,
        progress: Progress | None = None,
    ) -> None:
        self.members, self.options = members, options
        self.known = [tasks_known(member) for member in members]
        self.reference = find_base(members, settings.model, settings.revision, progress)
        for member in members:
            check_base(member.base, self.reference, member.path)
            member.check_numbers()
        self._settings, self._progress = settings, progress or Silent()
        self._device = pick_device(settings.device)
        self.guide = Guide(self.reference, members, options, batch_size=settings.batch_size)
        self.routing = self.guide.routing()
        self._joined = contextlib.ExitStack()

    @property
    def names(self) -> list[str]:
        """The adapters' names."""
        return [member.task for member in self.members]

    @property
    def how(self) -> dict[str, Any]:
        """How inputs choose, every choice made: ``similarity`` is no longer ``auto``."""
        return {
            **self.options.recorded(),
            "similarity": self.routing.similarity,
            "threshold": self.routing.threshold,
            "sites": list(self.guide.sites),
        }

    def start(self, calibration: Sequence[Task] = ()) -> None:
        """Load the base model; find the threshold if inputs may abstain; tell what matters for the inputs.

        Args:
            calibration: The tasks of whose dev rows the share ``options.abstain`` is to lie below the threshold; each
                has dev rows.

        Raises:
            MismatchError: If one of several processes would not do the same as the first one.
        """
        if self.guide.record.source != "base":
            self._progress.warn(
                "the distributions were taken with --source adapted, inputs are looked at by the base model alone: "
                "their features differ above the first layer"
            )
        agree(lambda: self._facts(calibration))
        if self._settings.shard:  # until the last input is decided
            self._joined.enter_context(together(self._device))
        how: dict[str, Any] = {name: getattr(self._settings, name) for name in ("dtype", "quantize", "shard")}
        self.guide.backbone = load_backbone(self.reference, device=self._device, progress=self._progress, **how)
        for remark in self.guide.backbone.tokens.remarks(self.guide.record.max_length, 0):
            self._progress.note(f"note: {remark}")
        if not calibration:
            return
        with together(self._device):
            self.routing.threshold, rows = self.guide.threshold(self.routing, calibration)
        self._progress.note(
            f"inputs of a nearness below {self.routing.threshold:.6g} go to the base model: {100 * self.options.abstain:g} % of "
            f"{rows} dev rows"
        )

    def tally(self, *, panels: bool = False) -> Tally:
        """Return an empty tally; with ``panels`` it keeps the layers apart."""
        return Tally(self.names, self.known, panels_of(self.guide.sites) if panels else {})

    def decide(self, inputs: Iterable[Input]) -> Iterator[Decided]:
        """Yield where inputs go, batch by batch, in their order.

        Of several processes the first one reads the inputs, as many batches at once as there are processes, and yields
        what all decided; the others decide what they are given until there is no more, and yield nothing.

        Args:
            inputs: Any number, read one batch at a time; the first process's alone.

        Raises:
            DataError: If an instruction is longer than what the adapters' own inputs were cut to.
            CloraError: If the base model's numbers are not finite.
        """
        others = meet()
        if others.rank:
            self._help(others)
        else:
            for batches in in_batches(in_batches(inputs, self._settings.batch_size), others.size):
                yield from self._round(others, batches)
            others.hand_out(b"")
        self._joined.close()

    def _round(self, others: Meeting, batches: Sequence[Sequence[Input]]) -> Iterator[Decided]:
        sharded = self.guide.backbone.sharded
        at_once = {rank: batches[rank] for rank in range(1, len(batches))}
        # None can run a divided model without the others: all get something to do, and make the same passes.
        given = {rank: at_once.get(rank, batches[0]) for rank in range(1, others.size)} if sharded else at_once
        every = self.guide.ways(one for batch in batches for one in batch)
        for rank, batch in given.items():
            others.send(rank, spelled(batch))
            others.send(rank, bytes(every if sharded else self.guide.ways(batch)))
        weights = self._weights(batches[0], every if sharded else self.guide.ways(batches[0]))
        yield Decided(batches[0], weights)
        for rank in given:
            found = load(others.receive(rank, WORK))
            if rank in at_once:  # in the order in which one process has them
                yield Decided(at_once[rank], {site: found[site] for site in weights})

    def _help(self, others: Meeting) -> None:
        while text := others.receive(0, WORK):
            ways = [bool(way) for way in others.receive(0, WORK)]
            try:
                others.send(0, save(self._weights(read_spelled(text), ways)))
            except CloraError as error:  # the first process raises it in its turn
                if self.guide.backbone.sharded:  # where it waits for this one in the middle of a pass
                    raise
                others.send_error(0, error)

    def _weights(self, inputs: Sequence[Input], ways: Collection[bool]) -> dict[str, Tensor]:
        weights = self.routing.weights(self.routing.similarities(self.guide.of_inputs(inputs, ways)))
        if (seen := self.guide.backbone.tokens.seen) is not None:
            seen.forget()
        check_finite(weights, inputs[0].where)
        return weights

    def _facts(self, calibration: Sequence[Task]) -> dict[str, Any]:
        return {
            **self.options.recorded(),
            "base_model": self.reference.fingerprint,
            "device": self._device.type,
            "dtype": self._settings.dtype,
            "quantize": self._settings.quantize,
            "shard": self._settings.shard,
            "batch_size": self._settings.batch_size,
            "package": marks(self.members),
            "calibration": [task.fingerprint for task in calibration],
        }
