"""Continual-learning methods (layer L2): one file each.

A method is a frozen dataclass: its fields are its options. It declares how it differs from a fresh LoRA on top of the frozen sum
of the earlier ones, and acts at any of a run's moments, all of them optional:

- ``check``: when the run is planned, before anything is loaded,
- ``rehearse``: before training, once for each earlier task: makes rows of it with the previous model,
- ``begin``: before training, when the model and the data are loaded,
- ``loss``: a term of the loss, once a micro-batch,
- ``gradients``: the whole step's gradients, after the backward pass and before clipping,
- ``penalty``: a term of the loss that depends on adapter tensors alone, with its gradient in closed form, added after
  ``gradients``, once a step,
- ``after_step``: after each step of the optimizer,
- ``finish``: at the end; what it returns is kept with the adapter.

Every moment but ``penalty`` gets the :class:`Run`: facts, the method's own tensors, and services such as the previous model,
Fisher information or second moments of the layers' inputs. A service computes only what a method asks for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor

from clora_cli.data.made_rows import MadeRow
from clora_cli.methods._given import Activity, Batch, Trimming
from clora_cli.methods._run import Confined, Planned, Run, Weigh
from clora_cli.methods._texts import Text, Writer
from clora_cli.options import RouteOptions
from clora_cli.store.adapter_folder import AdapterFolder

__all__ = [
    "Activity",
    "Batch",
    "Confined",
    "Factors",
    "MadeRow",
    "Memory",
    "Method",
    "Penalty",
    "Planned",
    "Run",
    "Text",
    "Trimming",
    "Weigh",
    "Writer",
]


@dataclass(frozen=True, eq=False)
class Factors:
    """The new adapter's factors at all sites of one shape, stacked, with those of the past.

    Attributes:
        a: The new adapter's ``lora_A``, shape (site, rank, in), float32.
        b: The new adapter's ``lora_B``, shape (site, out, rank), float32.
        scaling: Its scaling, so that its delta is ``scaling * b @ a``.
        past_a: ``lora_A`` of all earlier adapters, concatenated, shape (site, past rank, in); None without a past.
        past_b: ``lora_B`` of all earlier adapters times their scalings, shape (site, out, past rank); None without a past.
        total_sites: Number of sites of the whole adapter, in this stack and in others, for means over sites.
        past_delta: The past as one dense delta, shape (site, out, in), where the method's ``past`` is a merge; else None.
        past_owner: For each row of ``past_a`` the number of the earlier adapter that it belongs to, from 0, shape (past rank,).
        kept: What the method keeps from step to step (``Run.kept``).
        recalled: What the method ``recalls`` of the last earlier adapter, by name, each stacked over sites; empty without one.
        sites: The sites, in the order of the stack.
    """

    a: Tensor
    b: Tensor
    scaling: float
    past_a: Tensor | None
    past_b: Tensor | None
    total_sites: int = 1
    past_delta: Tensor | None = None
    past_owner: Tensor | None = None
    kept: Mapping[str, Tensor] = field(default_factory=dict)
    recalled: Mapping[str, Tensor] = field(default_factory=dict)
    sites: Sequence[str] = ()

    @property
    def has_past(self) -> bool:
        """Whether any earlier adapter acts on these sites."""
        return self.past_delta is not None or self.past_b is not None

    def past_rows(self, site: int, rows: slice) -> Tensor | None:
        """Return some rows of one site's summed or merged earlier deltas, shape (rows, in); None without a past."""
        if self.past_delta is not None:
            return self.past_delta[site, rows].to(self.a.dtype)
        if self.past_a is None or self.past_b is None:
            return None
        return self.past_b[site, rows].to(self.a.dtype) @ self.past_a[site].to(self.a.dtype)

    def past_energy(self, site: int) -> float:
        """Return the squared Frobenius norm of one site's summed or merged earlier deltas; 0 without a past."""
        if self.past_delta is not None:
            return self.past_delta[site].cpu().double().square().sum().item()  # not every accelerator has float64
        if self.past_a is None or self.past_b is None:
            return 0.0
        a, b = self.past_a[site].cpu().double(), self.past_b[site].cpu().double()
        return ((a @ a.mT) * (b.mT @ b)).sum().item()  # (past rank, past rank) each


@dataclass(frozen=True, eq=False)
class Penalty:
    """One method's term of the loss over one stack of sites, its strength included.

    Attributes:
        value: Scalar tensor, summed over sites.
        grad_a: Gradient with respect to ``Factors.a``, or None where it is zero.
        grad_b: Gradient with respect to ``Factors.b``, or None where it is zero.
    """

    value: Tensor
    grad_a: Tensor | None = None
    grad_b: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Which training rows of every earlier task a run may read.

    They are of those that the earlier task was trained on, and the same at each later task.

    Attributes:
        rows: How many of each task at most; 0 for all.
        share: The share of each task's rows, rounded up, in [0, 1]; 0 goes by ``rows``.
        by: Empty to draw them by the seed that the earlier task was trained with; else the name of what its method kept, one
            number for each of its rows: those with the largest are taken.
        mixed: Whether they are trained on, mixed with the new task's as if they were its own; else the method alone reads
            them, by ``Run.memory``.
        file: A file of rows that takes the place of earlier tasks' data, as ``clora synthesize`` writes it; those of each task in it
            are drawn by the run's seed. Empty without one.
        made: Whether the method makes them itself, by ``rehearse``, before the first step; ``share`` is then of the new task's
            rows, for all earlier tasks together.
    """

    rows: int = 0
    share: float = 0.0
    by: str = ""
    mixed: bool = True
    file: str = ""
    made: bool = False


@dataclass(frozen=True, kw_only=True)
class Method:
    """Base of all methods: a fresh LoRA on top of the frozen sum of earlier ones, without a penalty.

    Attributes:
        past: ``none``, ``sum``, ``route`` or ``weighted`` for a mixture that the method asks for by ``Run.mix``, or the name
            of a merge whose dense result of all earlier adapters is used.
        start: ``fresh`` random factors, those of the ``previous`` adapter, or ``shared``: one random ``lora_A`` that all
            adapters of a package have, never trained, so that they are parts of one LoRA.
        combine: What ``clora eval`` does by default: ``sum``, ``weighted``, ``learned``, ``last``, ``route``, ``task-id``,
            ``progressive``, ``none``, or the name of a merge.
        trains: Whether there is anything to train; else the adapter is written as zeros and the model is not even loaded.
        learns_answers: Whether the right answers' cross-entropy is learned; else ``loss`` alone is.
        fixed_a: Whether ``lora_A`` stays as ``begin`` leaves it; under ``start = "shared"`` it does anyway.
        recalls: What penalties need of the last earlier adapter, for ``Factors.recalled``: its ``lora_A`` and ``lora_B``,
            or what a method kept of each site in its ``state.clora``, ``<name>/<site>`` there. A run without is refused.
        keeps: Names of what ``finish`` returns for each site, ``<name>/<site>`` there: what merges may need of an adapter.
        joins: Whether, beside other methods, it takes over how they treat earlier adapters, as a filter of gradients can;
            alone it uses its own settings. It acts after the others at every moment.
        full_rank: Whether the new adapter is a matrix of full rank at each layer, all of it trained, of which ``--rank``, ``--alpha``
            and ``--dropout`` say nothing; beside a method that is, others are.
        factored: Whether the method makes those matrices of factors that it trains itself; layers and learning rate are then by
            default those of a LoRA.
        lr: The learning rate by default; None for what suits the base model.
        passes_on: Whether it hands the factors' gradients on to tensors of its own, and sets the factors from these: it acts last on
            gradients, and first after a step. At most one method of a run does.
        replaces: Whether ``finish`` puts other factors in the place of those that were trained: it then acts first, so that what others
            keep is of those that are written. At most one method of a run does.
        takes_classes: Whether it can train an encoder, whose answers are classes, each task's own: not where the model is to write, or
            answers are compared over a vocabulary that all tasks share.
        grows: Whether what inference needs grows with the number of tasks by more than a few bytes.
    """

    # Unannotated, so not dataclass fields and not options; a method may annotate one to make it an option.
    past = "sum"
    start = "fresh"
    combine = "sum"
    trains = True
    learns_answers = True
    fixed_a = False
    recalls: ClassVar[tuple[str, ...]] = ()
    keeps: ClassVar[tuple[str, ...]] = ()
    joins = False
    full_rank = False
    factored = False
    lr: ClassVar[float | None] = None
    passes_on = False
    replaces = False
    takes_classes = True
    grows = False

    # Declarations.

    def memory(self) -> Memory | None:
        """Return which rows of earlier tasks the run may read."""
        return None

    @property
    def reuses_data(self) -> bool:
        """Whether it reads earlier tasks' data again: by default, whether it has a memory of them."""
        memory = self.memory()
        return memory is not None and not (memory.file or memory.made)

    def virtual_tokens(self) -> int:
        """Return how many virtual tokens a new adapter's soft prompt has; 0 where it is a LoRA."""
        return 0

    def routing(self) -> RouteOptions | None:
        """Return how inputs choose among adapters at evaluation, where ``combine`` is ``route``; the manifest keeps it."""
        return None

    def weigh(self, states: Sequence[Mapping[str, Tensor]], queries: Tensor) -> Tensor:
        """Return how inputs weigh the adapters, where ``combine`` is ``learned``; ``Run.mix`` may call it in training.

        Args:
            states: What ``state.clora`` of each adapter holds; in training, the last is the new one's own tensors.
            queries: The mean of each input's frozen token embeddings, shape (input, hidden), each of norm 1.

        Returns:
            Shape (input, adapter).
        """
        raise NotImplementedError

    def choose(self, states: Sequence[Mapping[str, Tensor]], lengths: Sequence[int], queries: Tensor) -> Tensor:
        """Return which virtual tokens stand before inputs, where ``combine`` is ``learned`` and adapters are soft prompts.

        Args:
            states: As for ``weigh``.
            lengths: Virtual tokens of each adapter; they are numbered from 0, adapter after adapter.
            queries: As for ``weigh``.

        Returns:
            Numbers of virtual tokens in the order in which they stand, shape (input, token).
        """
        raise NotImplementedError

    # Moments.

    def rehearse(self, earlier: AdapterFolder, rows: int, writer: Writer) -> Sequence[MadeRow]:
        """Return rows of an earlier task that the model makes, where ``memory`` says ``made``; before the first step.

        ``clora synthesize`` calls it too, with the model of the whole package.

        Args:
            earlier: The earlier task's adapter, whose ``state`` has what ``finish`` kept.
            rows: How many at most.
            writer: The model as it is before the new task.
        """
        return ()

    def check(self, plan: Planned) -> None:
        """Check that the package has what the method needs, when a run is planned.

        Raises:
            CloraError: If something is missing.
        """

    def begin(self, run: Run) -> None:
        """Prepare, before the first step; also before a run is continued, whose factors then come from its checkpoint."""

    def loss(self, run: Run, batch: Batch) -> Tensor | None:
        """Return a term of the loss of a micro-batch, its strength included, or None where it does not act.

        The terms of all micro-batches and processes of a step add up: what is a mean over answer tokens is a sum over the
        batch's, divided by ``batch.tokens``.
        """
        return None

    def gradients(self, run: Run) -> None:
        """Change the ``grad`` of what is trained, once a step. Under a loss scale they carry it."""

    def penalty(self, factors: Factors) -> Penalty | None:
        """Return this method's term for one stack of sites, or None where it does not act."""
        return None

    def after_step(self, run: Run) -> None:
        """Act after a step of the optimizer, before a checkpoint is written."""

    def finish(self, run: Run) -> Mapping[str, Tensor]:
        """Return what ``state.clora`` of the finished adapter is to hold, ``<what>/<site>`` where it is a site's."""
        return {}
