"""Train one LoRA on, layer by layer along the gradient of the earlier task whose gradient is most alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from clora_cli.base.intervals import check_option
from clora_cli.methods import Method, Run

__all__ = ["TreeLora"]

_KEPT, _MEAN = "gradient", "mean"


@dataclass(frozen=True, kw_only=True)
class TreeLora(Method):
    """Train one LoRA on, layer by layer along the gradient of the earlier task whose gradient is most alike.

    ``G_jl`` is the mean over task j's steps of the gradient of ``lora_A`` at site l, at norm 1, and ``m_l`` that of the new
    task so far. The sites are the levels of a tree of the earlier tasks: at each the tasks of the node that was reached are compared by the
    L1 distance of ``G_jl`` to m_l, and the nearest is j; then the node is divided at the median distance to its own mean gradient,
    and the new task goes to the side where its own distance lies. The gradient becomes
    ``g_l + strength * n / steps * ||g_l|| G_jl`` at step n, so that old tasks near to the new one are learned on with it.

    Args:
        strength: The share of the earlier task's gradient at the last step, at least 0.

    References:
        Qian et al., TreeLoRA: Efficient Continual Learning via Layer-Wise LoRAs Guided by a Hierarchical Gradient-Similarity Tree,
        ICML 2025, arXiv:2506.10355: gradients by L1 distance, the tree. Inner product, growth and 0.5 are those of its published code
        (ZinYY/TreeLoRA@c6a9b6d).
        Differs: the paper's regulariser, as a reader of its text quotes it, is the L1 distance of the new gradient to the earlier
        task's, whose own gradient takes second derivatives; neither that code nor any other found has it.
        Differs: true gradients, where the code takes the parameters of ``lora_A`` for them, and adds each up once a layer.
        Differs: all tasks of a node are compared at each step, which costs a few products; the paper samples one by a lower confidence
        bound, and the code, by a sign, prefers the most distant.
        Differs: the pull is along the old gradient and as long as the new one's; the code's is that of the logarithm of an inner
        product, whose sign follows that product's.
        Differs: a node is divided by the L1 distance to its mean, as tasks are grouped in the paper; that code divides by the inner
        product with the mean, of each task's sums less those of the task before.
        Differs: only tasks that this method trained, one after the other, are compared with.
    """

    past = "none"
    start = "previous"
    combine = "last"

    strength: float = 0.5

    def __post_init__(self) -> None:
        """Check the option."""
        check_option("tree-lora", "strength", self.strength, "[0, inf)")

    def begin(self, run: Run) -> None:
        """Read the gradients of earlier tasks, all of which the last adapter keeps."""
        state = run.past[-1].state() if run.past else {}
        for site, factor in run.trainable.items():
            if (found := state.get(f"{_KEPT}/{site}")) is not None:
                run.kept[f"{_KEPT}/{site}"] = found.to(factor.a)

    @torch.no_grad()
    def gradients(self, run: Run) -> None:
        """Average this step's gradients, and add those of the most similar tasks."""
        means: dict[str, Tensor] = {}
        for site, factor in run.trainable.items():
            if factor.a.grad is None:
                continue
            before = run.kept.get(f"{_MEAN}/{site}", torch.zeros_like(factor.a)).to(factor.a)
            means[site] = run.kept[f"{_MEAN}/{site}"] = torch.lerp(before, factor.a.grad.float(), 1 / (run.step + 1))
        known = {site: run.kept[f"{_KEPT}/{site}"] for site in means if f"{_KEPT}/{site}" in run.kept}
        share = self.strength * (run.step + 1) / run.steps
        for site, task in nearest(means, known).items():
            grad = run.trainable[site].a.grad
            if grad is not None:
                grad.add_(known[site][task].to(grad), alpha=share * float(grad.norm()))

    def finish(self, run: Run) -> Mapping[str, Tensor]:
        """Return the mean gradients of all tasks so far at each site, at norm 1, shape (task, rank, in)."""
        kept = {}
        for site, factor in run.trainable.items():
            own = unit(run.kept.get(f"{_MEAN}/{site}", torch.zeros_like(factor.a)).cpu())[None]
            kept[f"{_KEPT}/{site}"] = torch.cat([run.kept.get(f"{_KEPT}/{site}", own[:0]).cpu(), own])
        return kept


def nearest(means: Mapping[str, Tensor], known: Mapping[str, Tensor]) -> dict[str, int]:
    """Return, down the tree, the number of the earlier task that is nearest at each site.

    Args:
        means: Site to the new task's mean gradient.
        known: Site to the earlier tasks' gradients of norm 1, shape (task, …), the same tasks at every site.
    """
    found: dict[str, int] = {}
    node: Sequence[int] = range(len(next(iter(known.values())))) if known else ()
    for site, earlier in known.items():
        own, tasks = unit(means[site]).to(earlier), earlier[list(node)]
        found[site] = node[int(_distances(tasks, own).argmin())]
        centre = tasks.mean(dim=0)
        apart = _distances(tasks, centre)
        within = bool(_distances(own[None], centre)[0] <= apart.median())
        side = [task for task, far in zip(node, (apart > apart.median()).tolist(), strict=True) if far != within]
        node = side or node  # one task, or tasks that are all alike, are not divided
    return found


def unit(gradient: Tensor) -> Tensor:
    """Return a gradient at norm 1."""
    length: Tensor = gradient.norm()
    return gradient / length.clamp(min=torch.finfo(gradient.dtype).tiny)


def _distances(gradients: Tensor, other: Tensor) -> Tensor:
    return (gradients - other).abs().flatten(1).sum(dim=1)
