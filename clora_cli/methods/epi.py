"""Train an independent LoRA for each task, and find an input's task by the nearest mean of a class of inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from clora_cli.base.intervals import check_option
from clora_cli.methods import Method, Run

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

    def finish(self, run: Run) -> Mapping[str, Tensor]:
        """Return the means and the covariance of the task's inputs."""
        queries, answers = run.embeddings().double(), list(run.answers)
        names = sorted(set(answers))
        if self.means == "task" or 2 * len(names) > len(answers):
            names, answers = [""], [""] * len(answers)
        owner = functional.one_hot(torch.tensor([names.index(answer) for answer in answers]), len(names)).double()
        means = owner.mT @ queries / owner.sum(dim=0)[:, None]
        apart = queries - owner @ means
        spread = apart.mT @ apart if self.covariance == "full" else apart.square().sum(dim=0)
        return {"means": means.float(), "covariance": (spread / len(answers)).float()}

    def weigh(self, states: Sequence[Mapping[str, Tensor]], queries: Tensor) -> Tensor:
        """Return 1 for the adapter that each input goes to and 0 for the others, shape (input, adapter)."""
        root = self._root(torch.stack([state["covariance"].cpu().double() for state in states]).mean(dim=0))

        def whitened(vectors: Tensor) -> Tensor:
            turned: Tensor = torch.linalg.solve_triangular(root, vectors.cpu().double().mT, upper=False).mT
            return turned

        near = [torch.cdist(whitened(queries), whitened(state["means"])).amin(dim=1) for state in states]
        chosen = torch.stack(near, dim=1).argmin(dim=1)
        return functional.one_hot(chosen, len(states)).to(queries)

    def _root(self, spread: Tensor) -> Tensor:
        """Return L of the shrunk covariance ``L L^T``, shape (hidden, hidden)."""
        whole = spread.diag() if spread.ndim == 1 else spread
        ridge = self.shrinkage * whole.diagonal().mean().clamp(min=1e-12)
        lower: Tensor = torch.linalg.cholesky((1 - self.shrinkage) * whole + ridge * torch.eye(len(whole)))
        return lower
