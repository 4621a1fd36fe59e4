"""A training as a method sees it: facts, what may be asked of the engine, and services, each made when it is first used."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn

from clora_cli.algebra.lora import Factor
from clora_cli.algebra.statistics import SecondMoment
from clora_cli.methods._given import Activity, Batch, Trimming
from clora_cli.methods._texts import States, Texts
from clora_cli.model.attribution import Answer
from clora_cli.model.base_model import ModelReference
from clora_cli.store.adapter_folder import AdapterFolder
from clora_cli.store.distribution import Distribution
from clora_cli.store.feature_record import Pool, Text
from clora_cli.store.ledger import Ledger

__all__ = ["Confined", "Planned", "Run", "Weigh"]


Weigh = Callable[[Tensor, Mapping[str, Tensor]], Mapping[str, Tensor]]
"""Weights over the earlier adapters and the new one, the last, of a batch: its row numbers and the model's arguments to, by
site that decides, shape (row, adapter), or (1, adapter) for all rows alike. They may carry gradients."""


class Planned(Protocol):
    """A run before anything is loaded."""

    @property
    def past(self) -> Sequence[AdapterFolder]:
        """The earlier adapters, by stage."""

    @property
    def members(self) -> Sequence[AdapterFolder]:
        """All other adapters of the package, later ones included."""

    @property
    def reference(self) -> ModelReference:
        """The base model."""

    @property
    def package(self) -> Path:
        """The package that the adapter will join."""

    @property
    def rank(self) -> int:
        """The new adapter's rank."""

    @property
    def ledger(self) -> Ledger | None:
        """Who owns what of the LoRA that the adapters share; None without one."""


class Confined(Protocol):
    """The part of a shared LoRA's ``lora_B`` that the new adapter may change."""

    def clear_gradients(self) -> None:
        """Clear the gradients of all other entries."""

    def after_step(self, steps: int) -> None:
        """Put all other entries back to zero, after so many optimizer steps; at the end of the warm-up, choose."""

    def state(self) -> dict[str, Tensor]:
        """Return the chosen masks, packed, for ``state.clora``."""

    def recorded(self) -> dict[str, Any]:
        """Return what the manifest says of the result, as shares of all entries, in [0, 1]."""


class Run(Texts, States, Protocol):
    """One training, as one of its methods sees it.

    Attributes:
        name: The method's name on the command line.
        step: Optimizer steps that are done; above 0 in ``begin`` where a run is continued from a checkpoint.
        kept: Tensors that last from step to step and are in every checkpoint; ``begin`` finds them, on the CPU, when a run
            is continued. ``penalty`` gets them as ``factors.kept``.
        own: The method's own trainable tensors, by name; see ``parameter``.
        report: What the manifest's ``scores`` will hold of this method, as JSON; in every checkpoint too.
    """

    name: str
    step: int
    kept: dict[str, Tensor]
    own: dict[str, nn.Parameter]
    report: dict[str, Any]

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole run."""

    @property
    def seed(self) -> int:
        """The seed of this task's run."""

    @property
    def past(self) -> Sequence[AdapterFolder]:
        """The earlier adapters that the run builds on, by stage, under the model's own names."""

    @property
    def overlaps(self) -> bool:
        """Whether an earlier adapter takes part at a layer that the new one adapts."""

    @property
    def trainable(self) -> Mapping[str, Factor]:
        """The new adapter: site to its factors, which are the parameters themselves, with their ``grad``."""

    @property
    def batches(self) -> Sequence[Sequence[int]]:
        """The numbers of the task's own rows of each optimizer step."""

    @property
    def answers(self) -> Sequence[str]:
        """The right answer to each of the task's own rows."""

    @property
    def memory(self) -> Sequence[int]:
        """The numbers of the memory's rows."""

    @property
    def memories(self) -> Sequence[range]:
        """The numbers of the memory's rows of each earlier task."""

    # What a method may ask of the engine in ``begin``.

    def parameter(self, name: str, start: Tensor, *, lasts: bool = True) -> nn.Parameter:
        """Return a trainable tensor of the method's own, beside the LoRA.

        It is trained by the same optimizer, checkpointed, counted, and kept in ``state.clora`` under its name. Every
        forward pass must use it.

        Args:
            name: Its name; ``<what>/<site>`` where it is a site's.
            start: Its first value, of any shape.
            lasts: Whether ``state.clora`` keeps it.
        """

    def prompt(self, vectors: Callable[[], Tensor], choose: Callable[[Tensor], Tensor] | None = None) -> None:
        """Put virtual tokens before every row; a method whose ``virtual_tokens`` are not 0 must ask for it, once.

        Args:
            vectors: Gives the new adapter's, shape (token, hidden), in each forward pass; made of ``parameter``s. Those of the
                end are the adapter.
            choose: Gives which virtual tokens stand before training rows, from their numbers, of shape (row,): shape (row, token) or
                (1, token). The tokens of ``past`` are numbered first, from 0, adapter after adapter, then the new ones. By
                default all, the new adapter's first and those of the first adapter last.
        """

    def drawn_tokens(self, count: int) -> Tensor:
        """Return the vectors of tokens drawn from the vocabulary by the run's seed, shape (count, hidden), float32."""

    def mix(self, weigh: Weigh, among: Sequence[int] | None = None) -> None:
        """Put earlier adapters into every forward pass of the training, and weigh them and the new one there.

        Sites that do not decide take the weights of the nearest one that does. At most one method of a run may ask.

        Args:
            weigh: Gives a batch's weights.
            among: Numbers of the earlier adapters that take part, from 0, in the order of the weights; all by default.
        """

    def schedule(self, factor: Callable[[int], float]) -> None:
        """Multiply the learning rate of each optimizer step, counted from 0."""

    def confine(self, trimming: Trimming) -> Confined:
        """Return the new adapter's part of the shared LoRA, the same at every call; where ``start`` is ``shared``."""

    def watch(self) -> None:
        """Measure from now on how strongly the layers answer; see ``activities``."""

    def give_features(self, distribution: Distribution) -> None:
        """Give the finished adapter a feature distribution."""

    def log(self, values: Mapping[str, float]) -> None:
        """Add values to this step's line of the log."""

    # Services.

    def activities(self) -> Sequence[Activity]:
        """Return how strongly the layers answered to this step's rows, by shape of site."""

    def scale_rows(self, sites: Sequence[str], a: Tensor, b: Tensor) -> None:
        """Multiply the gradients' rows: those of ``lora_A`` by (site, rank), those of ``lora_B`` by (site, out)."""

    def previous(self, batch: Batch) -> Tensor:
        """Return the logits of the base model with the last earlier adapter alone, as ``batch.logits``, without gradient."""

    def slopes(self, rows: Sequence[int]) -> Sequence[tuple[nn.Parameter, Tensor]]:
        """Return every trained tensor with the gradient of the mean loss per answer token of some training rows.

        Dropout is off; ``.grad`` stays as it is. Several processes share the rows out.
        """

    def losses(self) -> Tensor:
        """Return the mean loss per answer token of each of the task's training rows, shape (row,), without dropout."""

    def attribution(
        self,
        adapter: int | None,
        *,
        steps: int,
        rows: int | None,
        together: bool,
        answer: Answer,
        calls: int = 1,
    ) -> Tensor:
        """Return the attribution of every knowledge neuron to the right answers.

        Args:
            adapter: An earlier adapter's number, from 0, or None for the new one; it acts on the base model alone.
            steps: Points of the integral.
            rows: Training rows to average over; None for as many as a tenth of the training's own cost allows.
            together: Scale the neurons of all layers at once instead of one layer after the other.
            answer: What is attributed.
            calls: Calls of a whole run, which share that tenth.

        Returns:
            Shape (neuron,), float32: all layers' neurons, one after the other.
        """

    def fisher(self, rows: int) -> Mapping[str, Mapping[str, Tensor]]:
        """Return the diagonal of the new adapter's empirical Fisher information.

        Args:
            rows: Training rows to average over; a sample drawn by the run's seed.

        Returns:
            ``lora_A`` and ``lora_B``, each site to the mean over rows of the squared gradient of the logarithm of the
            right answer's probability, in the factor's shape, float32.
        """

    def embeddings(self) -> Tensor:
        """Return what routing by task vectors sees of the task's training rows, shape (row, hidden), each of norm 1."""

    def input_moments(self) -> Iterator[tuple[str, Tensor]]:
        """Yield each adapted site with the mean of ``x xᵀ`` over its inputs, shape (in, in), float64.

        The mean is over all tokens of the task's training rows but padding, the model as it is at this moment. One group of
        sites is held at a time; more groups take more passes.
        """

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """Yield each adapted site with the weight, (out, in), that the delta is added to: earlier adapters' included."""

    def distribution(self, *, pool: Pool, text: Text, second_moment: SecondMoment) -> Distribution:
        """Return the feature distribution of the task's training rows under the bare base model."""

    def features(
        self, sites: Sequence[str], *, pool: Pool, text: Text
    ) -> Iterator[tuple[list[int], dict[str, Tensor]]]:
        """Yield the bare base model's features of the task's training rows, batch by batch.

        Yields:
            Row numbers, and site to features, shape (row, feature), float32, on the CPU.
        """
