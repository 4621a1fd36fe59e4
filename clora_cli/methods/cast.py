"""Give each task a sparse subspace of one shared LoRA, and let inputs find theirs by task vectors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from clora_cli.base import registry
from clora_cli.base.errors import MismatchError, OptionError
from clora_cli.base.intervals import check_option
from clora_cli.methods import Method, Planned, Run, Trimming
from clora_cli.model.task_vectors import KEY, learn_task_vector, read_task_vector
from clora_cli.options import RouteOptions
from clora_cli.store.adapter_folder import AdapterFolder

__all__ = ["Cast"]


@dataclass(frozen=True, kw_only=True)
class Cast(Method):
    """Give each task a sparse subspace of one shared LoRA, and let inputs find theirs by task vectors.

    ``h = W x + s (B * M_t) A x`` (eq. 3) with one random A that is never trained and one B that all tasks share: task t owns
    the entries of its mask M_t and no other task may change them. A warm-up trains every entry that nobody owns; those whose
    change lies before the knee of the sorted magnitudes (eq. 5, 6), within ``minimum`` and ``maximum`` of what is idle and at most
    ``most`` of all, are the mask. The rest go back to zero, and the remaining steps train the mask alone (eq. 7). However many
    tasks there are, training holds one LoRA; ``clora merge`` gives it back exactly.

    A unit task vector v_t learns ``softplus(max_j <E(x), v_j> - <E(x), v_t> + margin)`` (eq. 8-10; ``1 - <E(x), v_t>`` for
    the first task). At test, inputs weigh the masks by ``softmax(<E(x), v_k> / T)`` (eq. 11-13).

    Args:
        trim: How the mask is found among what is idle, with options after commas: ``knee``, ``density,density=0.05``.
        scope: Whether all entries compete with one another (``all``) or those of each site.
        warmup: Length of the warm-up in passes over the training rows, above 0; at most half of the run. 0.5 reads half of
            the rows.
        warmup_lr: The learning rate of the warm-up over that of the run, in (0, 1]; by default the value of ``most``.
        minimum: The least share of what is idle that a knee may leave to the task, above 0 and up to 1, or none; for trims that have
            such an option. What ``trim`` itself says of it goes first.
        maximum: The largest share of what is idle, likewise; all of it where there is no knee.
        flat: The least bend that counts as a knee, in (0, 1), or none; likewise. Without one ``maximum`` is the task's.
        most: The largest share of all of B that a task may own, in (0, 1]. Fifteen tasks of 0.05 leave a quarter idle, as in the
            paper, and late ones get no less than early ones.
        least: Training starts only while at least this share of B is idle, in [0, 1).
        margin: m, at least 0.
        vector_lr: Learning rate of the task vector, above 0.
        similarity: How inputs find their subspace at test: ``task-vector``, or ``l2``, ``mahalanobis`` and others once
            ``clora stat-features`` has given the adapters distributions.
        top_k: Subspaces that take part at test; 1 chooses, 0 mixes all as in eq. 12.
        temperature: T at test, above 0.

    References:
        One LoRA for All: Unlocking Latent Capacity of LoRA for Continual Adaptation (CAST), anonymous ACL submission,
        eq. 3-13; the frozen random A and sparse B are LoRI's, arXiv:2504.07448.
        Differs: eq. 5 prints argmax(x + y - 1), which on a curve below its chord leaves an empty mask; the knee is
        argmax(1 - x - y).
        Differs: a task owns ``minimum`` to ``maximum`` of what is idle, ``maximum`` where the magnitudes have no knee, and at most
        ``most`` of B; the paper cuts at the knee alone (``minimum=none``, ``maximum=none``, ``flat=none``, ``most=1``).
        Differs: the warm-up is a part of the run's steps, as the paper does not say whether its 300 steps include it.
        Differs: the warm-up's learning rate is ``most`` times the run's; 1 is the paper's. In the warm-up all idle entries move,
        of which that share may move later, so that the layers' outputs change by as much in a step of either.
        Differs: the task vector is trained apart, on the same rows in the same order: it shares no parameter with the LoRA.
        Differs: the vector's learning rate is 0.1 falling to 0, the paper's 0.01: forty steps at 0.01 do not reach a task's
        inputs from a random point.
        Differs: s_pos is the cosine, so that its gradient is tangent to the sphere.
        Differs: inputs choose one subspace by default. A subspace is trained at weight 1, and eq. 12 never gives it that.
        Differs: E, m, T, s, the adapted layers and whether entries compete over all layers are not published; E(x)
        is the normalised mean of the frozen token embeddings.
    """

    past = "none"
    start = "shared"
    combine = "route"

    trim: str = registry.naming("trims", "knee")
    scope: Literal["all", "site"] = "all"
    warmup: float = 0.5
    warmup_lr: float | None = None
    minimum: float | None = registry.added(0.01)
    maximum: float | None = registry.added(0.2)
    flat: float | None = registry.added(0.2)
    most: float = 0.05
    least: float = 0.01
    margin: float = 0.1
    vector_lr: float = 0.1
    similarity: str = registry.naming("routers", "task-vector")
    top_k: int = 1
    temperature: float = 0.01

    def __post_init__(self) -> None:
        """Check the options."""
        for name in ("warmup", "vector_lr", "temperature"):
            check_option("cast", name, getattr(self, name), "(0, inf)")
        check_option("cast", "warmup_lr", self.warmup_lr, "(0, 1]")
        check_option("cast", "margin", self.margin, "[0, inf)")
        for name in ("minimum", "maximum", "most"):
            check_option("cast", name, getattr(self, name), "(0, 1]")
        check_option("cast", "flat", self.flat, "(0, 1)")
        check_option("cast", "least", self.least, "[0, 1)")
        check_option("cast", "top_k", self.top_k, "[0, inf)")
        if registry.bound("trims", self._limited_trim()).needs_reference:
            raise OptionError(
                f"option trim={self.trim} of cast: it compares with a reference, of which there is none",
                code="trim-needs-reference",
            )
        self.routing()  # knows whether there is such a similarity

    def routing(self) -> RouteOptions:
        """Return how inputs find their subspace at test."""
        return RouteOptions(similarity=self.similarity, top_k=self.top_k, temperature=self.temperature)

    def check(self, plan: Planned) -> None:
        """Check that there is room for one more task.

        Raises:
            MismatchError: If too little of the shared LoRA is idle.
        """
        ledger, rank = plan.ledger, plan.rank
        if ledger is None or ledger.idle >= max(1, self.least * ledger.size):
            return
        owned = 1 - ledger.idle / ledger.size
        each = owned / len(plan.members)
        raise MismatchError(
            f"package {plan.package} is full: its tasks own {owned:.1%} of the {ledger.size} entries at rank {rank}, {each:.1%} "
            f"each; one more takes --rank {math.ceil(rank * (1 + each + self.least))} in a new package, "
            "a smaller share for each (-o most=…), or the removal of a task",
            code="package-full",
        )

    def begin(self, run: Run) -> None:
        """Confine the new adapter to what is idle, at the warm-up's learning rate until the mask is chosen."""
        run.confine(self.trimming())

    def gradients(self, run: Run) -> None:
        """Clear the gradients of entries that are not the task's."""
        run.confine(self.trimming()).clear_gradients()

    def after_step(self, run: Run) -> None:
        """Put entries that are not the task's back to zero."""
        run.confine(self.trimming()).after_step(run.step)

    def finish(self, run: Run) -> Mapping[str, Tensor]:
        """Return the mask and the task vector."""
        confined = run.confine(self.trimming())
        run.report["subspace"] = confined.recorded()
        inputs = run.embeddings()
        past = [_vector_of(adapter, number) for number, adapter in enumerate(run.past, start=1)]
        known = torch.stack(past) if past else inputs.new_zeros(0, inputs.shape[1])
        vector = learn_task_vector(inputs, known, run.batches, lr=self.vector_lr, margin=self.margin, seed=run.seed)
        return {**confined.state(), KEY: vector}

    def trimming(self) -> Trimming:
        """Return how the mask is found."""
        rate = self.most if self.warmup_lr is None else self.warmup_lr
        trim = self._limited_trim()
        return Trimming(trim=trim, scope=self.scope, warmup=self.warmup, warmup_lr=rate, most=self.most)

    def _limited_trim(self) -> str:
        """Return the trim with its limits, where they are not those that it has anyway."""
        name, *own = self.trim.split(",")
        known = registry.options(registry.load("trims", name))
        for limit in ("minimum", "maximum", "flat"):
            value, default = getattr(self, limit), Cast.__dataclass_fields__[limit].default
            if value == default:
                continue
            if limit not in known:
                raise OptionError(
                    f"option {limit} of cast: trim {name} has no such limit; knee has", code="trim-without-limit"
                )
            if limit in registry.split_options(own):
                raise OptionError(
                    f"option {limit} of cast: trim={self.trim} says it too; say it once", code="option-given-twice"
                )
            own.append(f"{limit}={'none' if value is None else value}")
        return ",".join([name, *own])


def _vector_of(adapter: AdapterFolder, number: int) -> Tensor:
    stored = read_task_vector(adapter)
    if stored is None:
        raise MismatchError(
            f"earlier adapter {number} of the package has no task vector; train it with --method cast as well",
            code="method-state-missing",
        )
    return stored
