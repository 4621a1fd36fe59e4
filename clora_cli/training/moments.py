"""Call a run's methods at each of its moments (layer L3)."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clora_cli.base.errors import CloraError, MismatchError, OptionError
from clora_cli.base.files import read_json, to_json, write_text
from clora_cli.base.progress import Progress
from clora_cli.methods import Batch
from clora_cli.processes.ranks import summed
from clora_cli.store.distribution import Distribution
from clora_cli.store.tensors import read_tensors, save_tensors
from clora_cli.training.build import MIXED
from clora_cli.training.composition import Composition
from clora_cli.training.mixing import Mixture
from clora_cli.training.penalties import Penalties
from clora_cli.training.prompting import Prompting
from clora_cli.training.run import TrainingRun

__all__ = ["Moments"]

_TENSORS, _REPORTS = "methods.safetensors", "methods.json"


class Moments:
    """Calls the methods of a run, in the order in which they act; knows none of them by name.

    Args:
        method: The run's method or methods.
        runs: What each of them sees, by name.
        penalties: Makes the penalties of those that have one, once the earlier adapters are in the forward pass.
        mixtures: What weighs the adapters, once a method has asked for it.
        promptings: What puts virtual tokens before the rows, once a method has asked for it.
    """

    def __init__(
        self,
        method: Composition,
        runs: Mapping[str, TrainingRun],
        penalties: Callable[[], Penalties],
        mixtures: Sequence[Mixture] = (),
        promptings: Sequence[Prompting] = (),
    ) -> None:
        self._method, self._runs, self._penalties, self._mixtures = method, runs, penalties, mixtures
        self._promptings = promptings
        self._terms: dict[str, Tensor] = {}
        self.last: Tensor | float = 0.0  # the sum of the last micro-batch's terms

    @cached_property
    def penalties(self) -> Penalties:
        """The penalties, stacked by shape."""
        return self._penalties()

    @property
    def needs_whole(self) -> bool:
        """Whether a method needs whole adapter tensors on every process."""
        acting = ("penalty", "loss", "gradients", "after_step")
        return any(run.own for run in self._runs.values()) or any(self._method.at(moment) for moment in acting)

    @property
    def learns_answers(self) -> bool:
        """Whether the right answers themselves are learned, beside what methods add."""
        return all(part.learns_answers for part in self._method.parts.values())

    @property
    def rates(self) -> list[Callable[[int], float]]:
        """What the learning rate of a step is multiplied by."""
        return [run.rate for run in self._runs.values() if run.rate is not None]

    @property
    def seconds(self) -> float:
        """Seconds that attributions took."""
        return sum(run.seconds for run in self._runs.values())

    @property
    def distribution(self) -> Distribution | None:
        """The new adapter's feature distribution, if a method gave one."""
        return next((run.distribution_given for run in self._runs.values() if run.distribution_given), None)

    @property
    def row_by_row(self) -> bool:
        """Whether a forward pass must show the layers every token of every row: adapters are weighed, or layers watched."""
        return bool(self._mixtures) or any(run.watches for run in self._runs.values())

    def begin(self, checkpoint: Path | None, progress: Progress) -> None:
        """Let all prepare; continue from a checkpoint where there is one.

        Raises:
            CloraError: If the checkpoint is damaged, or two methods ask for what only one can have.
        """
        if checkpoint is not None:
            self._load(checkpoint)
        for name, part in self._method.acting.items():
            part.begin(self._runs[name])
        lead = self._method.lead
        if lead.past in MIXED and next(iter(self._runs.values())).past and not self._mixtures:
            raise OptionError(
                f"--method {self._method.name} says past='{lead.past}' and mixes nothing: begin() is to call run.mix()",
                code="method-mixes-nothing",
            )
        if lead.virtual_tokens() and not self._promptings:
            raise OptionError(
                f"--method {self._method.name} has virtual tokens and puts them nowhere: begin() is to call run.prompt()",
                code="method-prompts-nothing",
            )
        for name, held in self.penalties.inactive().items():
            reason = "no earlier adapter shares a layer with the new one"
            reason = reason if self._runs[name].past else "there is no earlier adapter"
            reason = "it is of factors that this run does not train" if held else reason
            progress.warn(f"{name}: its penalty is inactive in this run: {reason}")

    @contextlib.contextmanager
    def forward(self, rows: Tensor, inputs: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """Surround the forward pass of a micro-batch; gives the inputs to pass on.

        Args:
            rows: Numbers of its training rows, shape (row,).
            inputs: The model's arguments and the labels.
        """
        for mixture in self._mixtures:
            mixture.before(rows, inputs)
        for prompting in self._promptings:
            inputs = prompting.before(rows, inputs)
        with contextlib.ExitStack() as stack:
            for run in self._runs.values():
                inputs = stack.enter_context(run.watching(inputs))
            yield dict(inputs)

    def loss(self, batch: Batch) -> Tensor | None:
        """Return the sum of all methods' terms for a micro-batch; None where there is none."""
        found = {name: part.loss(self._runs[name], batch) for name, part in self._method.at("loss").items()}
        terms = {name: term for name, term in found.items() if term is not None}
        for name, term in terms.items():
            if not isinstance(term, Tensor) or term.shape:
                raise CloraError(
                    f"method {name}: loss() is to return a scalar tensor or None", code="hook-returns-wrong"
                )
            self._terms[name] = self._terms.get(name, torch.zeros_like(term)) + term.detach()
        total = torch.stack(list(terms.values())).sum() if terms else None
        self.last = 0.0 if total is None else total.detach()
        return total

    def gradients(self, scale: float) -> None:
        """Let each method change the gradients of a whole step, and add its penalty's.

        Args:
            scale: The loss scale of mixed precision that the gradients carry.
        """
        for name, part in self._method.filtering.items():
            part.gradients(self._runs[name])
            self.penalties.add(name, self._runs[name].kept, scale)
        self.penalties.end_step()

    def after_step(self, step: int) -> None:
        """Let all act after an optimizer step; ``step`` are done."""
        for run in self._runs.values():
            run.step = step
        for name, part in self._method.stepping.items():
            part.after_step(self._runs[name])

    @torch.no_grad()
    def finish(self) -> dict[str, Tensor]:
        """Let all end, and return what ``state.clora`` is to hold.

        Raises:
            MismatchError: If two methods keep something under one name.
        """
        state: dict[str, Tensor] = {}
        for name, part in self._method.ending.items():
            with torch.enable_grad():
                kept = part.finish(self._runs[name])
            if not isinstance(kept, Mapping) or not all(isinstance(value, Tensor) for value in kept.values()):
                raise CloraError(
                    f"method {name}: finish() is to return a mapping of names to tensors", code="hook-returns-wrong"
                )
            own = {key: tensor.detach().clone() for key, tensor in self._runs[name].lasting.items()}
            if twice := state.keys() & (own.keys() | kept.keys()):
                raise MismatchError(
                    f"--method {self._method.name}: two of these methods keep '{min(twice)}'; name one of them",
                    code="methods-keep-same-state",
                )
            state |= own | dict(kept)
        return state

    def report(self) -> dict[str, Any]:
        """Return what the manifest says of the methods' results."""
        found: dict[str, Any] = {}
        for run in self._runs.values():
            for key, value in run.report.items():
                found[key] = {**found.get(key, {}), **value}
        written = sum(tensor.numel() for prompting in self._promptings for tensor in prompting.tensors().values())
        if own := sum(tensor.numel() for run in self._runs.values() for tensor in run.own.values()) - written:
            found["beside_the_lora"] = {"trained": own}
        return found

    def take(self, device: torch.device) -> dict[str, float]:
        """Return the step's values for the log, over all processes, and start afresh."""
        terms, self._terms = self._terms, {}
        found = {f"penalty/{name}": summed(total, device).item() for name, total in terms.items()}
        found |= {f"penalty/{name}": value for name, value in self.penalties.take().items()}
        for run in self._runs.values():
            found |= run.logged
            run.logged = {}
        return found

    def save(self, folder: Path) -> None:
        """Write what methods keep from step to step, if anything, into a checkpoint's folder.

        Raises:
            CloraError: If it cannot be written.
        """
        kept = {f"{name}/{key}": tensor for name, run in self._runs.items() for key, tensor in run.kept.items()}
        reports = {name: run.report for name, run in self._runs.items() if run.report}
        if kept:
            save_tensors(folder / _TENSORS, kept)
        if reports:
            write_text(folder / _REPORTS, to_json(reports))

    def _load(self, folder: Path) -> None:
        tensors = read_tensors(folder / _TENSORS) if (folder / _TENSORS).exists() else {}
        reports = read_json(folder / _REPORTS, "checkpoint's record") if (folder / _REPORTS).exists() else {}
        for name, run in self._runs.items():
            run.step = int(folder.name.rpartition("-")[2])
            run.report = dict(reports.get(name, {}))
            prefix = f"{name}/"
            run.kept = {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}
