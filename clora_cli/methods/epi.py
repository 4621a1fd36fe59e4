"""Train an independent LoRA for each task, and find an input's task by the nearest mean of a class of inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from clora_cli.algebra.clusters import classes
from clora_cli.algebra.gaussians import gaussians
from clora_cli.base.intervals import check_option
from clora_cli.methods import Method, Planned, Run
from clora_cli.methods._kept import check_kept

__all__ = ["Epi"]


@dataclass(frozen=True, kw_only=True)
class Epi(Method):
    """Train an independent LoRA for each task, and find an input's task by the nearest mean of a class of inputs.

    Of each task one mean m_c for every answer is kept, and the covariance S_k of its inputs about them. An input q goes to the task of
    ``argmin_c (q - m_c)^T S^-1 (q - m_c)`` over the classes of all tasks, with the mean S of the tasks' covariances, shrunk to
    ``(1 - shrinkage) S + shrinkage tr(S) / n I``. No row of an earlier task, no task's identity.

    Args:
        means: One for each ``class``, or one for each ``task``. Where more than half of a task's answers are distinct they are no
            classes, and the task has one mean.
        covariance: ``full``, or ``diag`` for a hundredth of the room.
        shrinkage: The share of the multiple of the identity, in (0, 1].

    References:
        Wang et al., Rehearsal-free Continual Language Learning via Efficient Parameter Isolation (EPI), ACL 2023: one mean
        a class and one covariance for all tasks. arXiv:1807.03888: Gaussians with a tied covariance.
        Differs: LoRAs, where EPI trains prefixes.
        Differs: q is the mean of the prompt's frozen token embeddings at norm 1, where EPI takes a frozen encoder's feature.
        Differs: where some adapters keep a diagonal alone, those of all count.
        Differs: the covariance is shrunk, without which few rows give none that can be inverted.
    """

    past = "none"
    combine = "learned"
    grows = True

    means: Literal["class", "task"] = "class"
    covariance: Literal["full", "diag"] = "full"
    shrinkage: float = 0.01

    def __post_init__(self) -> None:
        """Check the options."""
        check_option("epi", "shrinkage", self.shrinkage, "(0, 1]")

    def check(self, plan: Planned) -> None:
        """Check that all earlier adapters keep means and a covariance.

        Raises:
            MismatchError: If one does not: no input would find it.
        """
        lacking = "keeps no means and covariance, by which inputs find it; train the whole package with --method epi"
        check_kept(plan.past, lambda member: {"means", "covariance"} <= member.state().keys(), lacking)

    def finish(self, run: Run) -> Mapping[str, Tensor]:
        """Return the means and the covariance of the task's inputs."""
        queries, answers = run.embeddings().double(), run.answers
        owner = functional.one_hot(classes(answers if self.means == "class" else [""] * len(answers))).double()
        means = owner.mT @ queries / owner.sum(dim=0)[:, None]
        apart = queries - owner @ means
        spread = apart.mT @ apart if self.covariance == "full" else apart.square().sum(dim=0)
        return {"means": means.float(), "covariance": (spread / len(answers)).float()}

    def weigh(self, states: Sequence[Mapping[str, Tensor]], queries: Tensor) -> Tensor:
        """Return 1 for the adapter that each input goes to and 0 for the others, shape (input, adapter)."""
        each = [state["covariance"].cpu().double() for state in states]
        if len({own.ndim for own in each}) > 1:
            each = [own.diagonal() if own.ndim > 1 else own for own in each]
        spread = torch.stack(each).mean(dim=0)
        means = [state["means"].cpu().double() for state in states]
        near = gaussians(torch.cat(means), spread, self.shrinkage)(queries.cpu())
        nearest = [own.amax(dim=1) for own in torch.split(near, list(map(len, means)), dim=1)]
        return functional.one_hot(torch.stack(nearest, dim=1).argmax(dim=1), len(states)).to(queries)
