"""Continual-learning methods (layer L2): one file each.

A method is a frozen dataclass. Its fields are its options; what differs from plain LoRA on top of frozen earlier
adapters is said by three class attributes and few functions, all optional:

- ``past``: how earlier adapters enter the forward pass while the new one is trained,
- ``start``: where the new adapter starts,
- ``combine``: how the adapters are combined when the package is evaluated,
- ``penalty``: a term of the loss that depends on adapter tensors alone, with its gradient in closed form,
- ``compare``: a term of the loss that compares the model's answers with those of the model that it started from,
- ``filter_gradients``: which rows of the new adapter's gradients an optimizer step uses,
- ``memory``: rows of earlier tasks that are trained on again,
- ``gating``: how rows choose among the adapters by their features in training, where ``past`` is ``route``,
- ``routing``: how inputs choose at evaluation, where ``combine`` is ``route``,
- ``trimming``: to which entries of ``lora_B`` the new adapter is confined, where it shares one LoRA with earlier ones,
- ``relate`` and ``keep``: what the model's behaviour on the data has to say, for penalties and for later tasks.

The training loop calls ``penalty`` and ``filter_gradients`` once per optimizer step, however many micro-batches or
processes make it up, and ``compare`` once per micro-batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from torch import Tensor

from clora_cli.algebra.statistics import SecondMoment
from clora_cli.methods._probe import Probe
from clora_cli.options import RouteOptions
from clora_cli.store.feature_record import Pool, Text

__all__ = ["Activity", "Factors", "Gating", "Memory", "Method", "Penalty", "Probe", "Trimming"]


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
        relations: What the method's ``relate`` returned last, one number per earlier adapter; None before the first time.
        recalled: What the method ``recalls`` of the last earlier adapter, by name, each stacked over sites; empty without one.
    """

    a: Tensor
    b: Tensor
    scaling: float
    past_a: Tensor | None
    past_b: Tensor | None
    total_sites: int = 1
    past_delta: Tensor | None = None
    past_owner: Tensor | None = None
    relations: Tensor | None = None
    recalled: Mapping[str, Tensor] = field(default_factory=dict)

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


@dataclass(frozen=True, eq=False)
class Activity:
    """How strongly the layers answered in one optimizer step, at all sites of one shape, stacked.

    Attributes:
        a: Mean magnitude of each output of ``lora_A`` over the step's tokens without padding, shape (site, rank), float32.
        b: The same of the whole adapted layer, base and adapters together, shape (site, out).
        first: Whether the adapter is the first of its package.
    """

    a: Tensor
    b: Tensor
    first: bool


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Which training rows of every earlier task are trained on again, mixed with the new task's as if they were its own.

    They are drawn by the seed that the earlier task was trained with from the rows that it was trained on: the same ones
    at each later task.

    Attributes:
        rows: How many of each task at most; 0 for all.
        share: The share of each task's rows, rounded up, in [0, 1]; 0 goes by ``rows``.
    """

    rows: int = 0
    share: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Gating:
    """How each row's features mix the adapters in training, of a method whose ``past`` is ``route``.

    Attributes:
        train: How rows choose among the earlier adapters and the new one in training.
        always: Whether the new adapter takes part in every row's mixture.
        floor: The new adapter's least weight in training, in [0, 1).
        pool: How features, the frozen base model's, are pooled over tokens.
        text: Of which part of a prompt.
        second_moment: Which second moments the new adapter's distribution keeps; None for those that ``train`` needs.
    """

    train: RouteOptions
    always: bool = True
    floor: float = 0.0
    pool: Pool = "prompt-mean"
    text: Text = "prompt"
    second_moment: SecondMoment | None = None


@dataclass(frozen=True, kw_only=True)
class Trimming:
    """How the new adapter is confined to entries of ``lora_B`` that no other adapter of the package owns.

    Training begins with a warm-up, in which every such entry may move. A trim of how far each of them moved says which stay
    the adapter's own; the others go back to zero, and nothing but the mask's entries moves from then on.

    Attributes:
        trim: A trim, with its options after commas: ``knee``, ``density,density=0.05``.
        scope: Whether all entries of the adapter compete with one another (``all``), or those of each site (``site``).
        warmup: Length of the warm-up in passes over the training rows, above 0; at most half of the run.
        warmup_lr: The learning rate of the warm-up over that of the run, in (0, 1].
        most: The share of all entries that the adapter may own, in (0, 1]: the largest of those that the trim keeps.
        least: The share of all entries that must be idle for training to start, in [0, 1).
    """

    trim: str = "knee"
    scope: Literal["all", "site"] = "all"
    warmup: float = 0.5
    warmup_lr: float = 1.0
    most: float = 1.0
    least: float = 0.01


@dataclass(frozen=True, kw_only=True)
class Method:
    """Base of all methods: a fresh LoRA on top of the frozen sum of earlier ones, without a penalty.

    Attributes:
        past: ``none``, ``sum``, ``route`` for a mixture that each input chooses, or the name of a merge whose dense result
            of all earlier adapters is used.
        start: ``fresh`` random factors, those of the ``previous`` adapter, or ``shared``: one random ``lora_A`` that all
            adapters of a package have, never trained, so that they are parts of one LoRA.
        combine: What ``clora eval`` does by default: ``sum``, ``last``, ``route``, ``task-id``, ``none``, or the name of a merge.
        trains: Whether there is anything to train; else the adapter is written as zeros and the model is not even loaded.
        recalls: What penalties need of the last earlier adapter, for ``Factors.recalled``: its ``lora_A`` and ``lora_B``,
            or what a method kept of each site in its ``state.clora``, ``<name>/<site>`` there.
        keeps: Names of what ``keep`` returns for each site, ``<name>/<site>`` there: what merges may need of an adapter.
        reuses_data: Whether it trains on rows of earlier tasks again.
        joins: Whether, beside other methods, it takes over how they treat earlier adapters, as a filter of gradients can; alone it has
            a way of its own.
        grows: Whether what inference needs grows with the number of tasks by more than a few bytes.
    """

    # Without annotations they are no dataclass fields, hence no options; a method may make one an option of its own.
    past = "sum"
    start = "fresh"
    combine = "sum"
    trains = True
    recalls: ClassVar[tuple[str, ...]] = ()
    keeps: ClassVar[tuple[str, ...]] = ()
    reuses_data = False
    joins = False
    grows = False

    def penalty(self, factors: Factors) -> Penalty | None:
        """Return this method's term for one stack of sites, or None where it does not act."""
        return None

    def compare(self, new: Tensor, old: Tensor) -> Tensor:
        """Return a term of the loss that compares two models' answers to the batch, where ``start`` is ``previous``.

        Called from the second task on, where a method has it; the sum is divided by the answer tokens of the whole step.

        Args:
            new: Logits of the model that is trained, at the answers' positions, shape (token, vocabulary), float32.
            old: Those of the model with the last earlier adapter, shape (token, vocabulary), float32, without gradient.

        Returns:
            A scalar, summed over tokens, its strength included.
        """
        raise NotImplementedError

    def filter_gradients(self, activity: Activity) -> tuple[Tensor, Tensor] | None:
        """Return what to multiply the gradients' rows by before an optimizer step, or None to leave them.

        Returns:
            Factors of ``lora_A``'s rows, shape (site, rank), and of ``lora_B``'s, shape (site, out).
        """
        raise NotImplementedError

    def memory(self) -> Memory | None:
        """Return which rows of earlier tasks are trained on again; such a method sets ``reuses_data``."""
        return None

    def gating(self) -> Gating | None:
        """Return how rows choose among adapters in training, where ``past`` is ``route``."""
        return None

    def routing(self) -> RouteOptions | None:
        """Return how inputs choose among adapters at evaluation, where ``combine`` is ``route``; the manifest keeps it."""
        return None

    def trimming(self) -> Trimming | None:
        """Return how the new adapter is confined to a part of the shared LoRA, where ``start`` is ``shared``."""
        return None

    def relates_at(self, step: int, steps: int) -> bool:
        """Tell whether ``relate`` is to be called before optimizer step ``step`` (from 0) of ``steps``."""
        return False

    def relate(self, probe: Probe) -> Tensor:
        """Return one number per earlier adapter, for ``Factors.relations``; called when ``relates_at`` says so."""
        raise NotImplementedError

    def keep(self, probe: Probe) -> Mapping[str, Tensor]:
        """Return what ``state.clora`` of the finished adapter is to hold; nothing by default."""
        return {}
