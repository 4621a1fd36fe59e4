"""Keep each LoRA out of the largest singular directions of the weights that it is added to."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from clora_cli.algebra.lora import truncate
from clora_cli.base.errors import MismatchError
from clora_cli.base.intervals import check_option
from clora_cli.methods import Method, Run

__all__ = ["OsfLora"]

_INPUTS, _OUTPUTS = "inputs", "outputs"


@dataclass(frozen=True, kw_only=True)
class OsfLora(Method):
    """Keep each LoRA out of the largest singular directions of the weights that it is added to.

    ``W + sum_{i<t} delta_i = U S V^T`` at each site, decomposed once a task. The leading U_h and V_h are the model's: before the
    first step and after each one ``A <- A - A V_h V_h^T`` and ``B <- B - U_h U_h^T B``, so that ``delta_t V_h = 0`` and
    ``U_h^T delta_t = 0``. The result is a plain LoRA.

    Args:
        directions: How many singular directions of a layer belong to the model, at least 0; fewer where the LoRA's rank would
            find no room.

    References:
        Nayak et al., Sculpting Subspaces: Constrained Full Fine-Tuning in LLMs for Continual Learning, 2025, arXiv:2504.07097.
        Differs: a LoRA's factors are projected, where OSF trains all lower singular vectors and values.
        Differs: a fixed number of directions, by a randomised decomposition; OSF keeps a share that grows with the tasks, half of
        all in PEFT's port. Earlier adapters are within what is decomposed.
        Differs: what the step changed is projected, not its gradient, so that no optimizer's momentum leads back.
    """

    directions: int = 64

    def __post_init__(self) -> None:
        """Check the option."""
        check_option("osf-lora", "directions", self.directions, "[0, inf)")

    def begin(self, run: Run) -> None:
        """Decompose the weights, and project the start; where a run is continued, its checkpoint has both."""
        if not run.step:
            for site, weight in run.weights():
                room = min(weight.shape) - run.trainable[site].rank
                outputs, inputs = leading(weight, max(0, min(self.directions, room)), run.seed)
                run.kept |= {f"{_OUTPUTS}/{site}": outputs, f"{_INPUTS}/{site}": inputs}
            if self.directions and not any(tensor.numel() for tensor in run.kept.values()):
                raise MismatchError(
                    "osf-lora: the LoRA's rank leaves no layer a direction of its own; pass a smaller --rank, and no method whose matrices "
                    "are of full rank",
                    code="no-room-for-rank",
                )
        self.after_step(run)

    @torch.no_grad()
    def after_step(self, run: Run) -> None:
        """Project both factors."""
        for site, factor in run.trainable.items():
            outputs, inputs = (run.kept[f"{name}/{site}"].to(factor.a) for name in (_OUTPUTS, _INPUTS))
            factor.a.sub_(factor.a @ inputs @ inputs.mT)
            factor.b.sub_(outputs @ (outputs.mT @ factor.b))


def leading(weight: Tensor, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return U_h, shape (out, count), and V_h, shape (in, count), with orthonormal columns, of a weight, (out, in)."""
    if not count:
        return weight[:, :0], weight[:0].mT
    pair, _, _ = truncate(weight, count, seed)
    outputs, inputs = (torch.linalg.qr(side)[0].contiguous() for side in (pair.b, pair.a.mT))
    return outputs, inputs
