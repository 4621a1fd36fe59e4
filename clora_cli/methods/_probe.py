"""What a method may ask of the model during training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from torch import Tensor

from clora_cli.model.attribution import Answer

__all__ = ["Probe"]


class Probe(Protocol):
    """The model as it answers the task's own rows."""

    @property
    def past(self) -> int:
        """Number of earlier adapters."""

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

    def stored(self, adapter: int) -> Mapping[str, Tensor]:
        """Return what an earlier adapter, numbered from 0, holds in its ``state.clora``."""

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

    @property
    def batches(self) -> Sequence[Sequence[int]]:
        """The numbers of the rows of each optimizer step."""

    @property
    def seed(self) -> int:
        """The seed of this task's run."""
