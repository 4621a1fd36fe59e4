"""Which directions earlier tasks' inputs use, and LoRAs that read none of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from clora_cli.base.errors import MismatchError
from clora_cli.methods import Method, Planned, Run
from clora_cli.methods._kept import check_kept

__all__ = ["InputBases", "grown", "leading", "residual"]

_BASIS = "basis"


@dataclass(frozen=True, kw_only=True)
class InputBases(Method):
    """Base of methods that set lora_A from what earlier tasks' inputs leave, and keep what the inputs so far use.

    Attributes:
        energy: The share of the energy of the inputs' second moment that is held.
        tasks: The number of tasks after which all of it is to be held; 0 leaves the share as it is.
    """

    fixed_a = True

    energy: float
    tasks: int

    def check(self, plan: Planned) -> None:
        """Check that all earlier adapters keep what their tasks' inputs use.

        Raises:
            MismatchError: If one does not: the new LoRA would read its inputs.
        """
        lacking = f"keeps no '{_BASIS}' of what its task's inputs use; train the whole package with the same method"
        check_kept(plan.past, lambda member: any(key.startswith(f"{_BASIS}/") for key in member.state()), lacking)

    def begin(self, run: Run) -> None:
        """Set lora_A; where a run is continued, its checkpoint has it."""
        if run.step:
            return
        old = _bases(run)
        for site, moment in run.input_moments():
            a = run.trainable[site].a
            basis = old.get(site, moment[:, :0])
            if len(a) > len(moment) - basis.shape[1]:
                raise MismatchError(
                    f"layer '{site}' has {len(moment)} inputs, of which earlier tasks use {basis.shape[1]}: no room for rank "
                    f"{len(a)}; pass a smaller --rank or -o energy=",
                    code="no-room-for-rank",
                )
            directions = leading(residual(moment, basis), basis, len(a), run.seed)
            with torch.no_grad():
                a.copy_(directions.mT / math.sqrt(3))

    def finish(self, run: Run) -> Mapping[str, Tensor]:
        """Return M, which the finished model's inputs have made grow; at layers that this run leaves out, as it was."""
        old, share = _bases(run), self.share(len(run.past) + 1)
        found = dict(old)
        for site, moment in run.input_moments():
            found[site] = grown(moment, old.get(site, moment[:, :0]), share)
        return {f"{_BASIS}/{site}": basis.float() for site, basis in found.items()}

    def share(self, stage: int) -> float:
        """Return the share of the energy that is held after so many tasks."""
        return self.energy + (1 - self.energy) * min(1.0, stage / self.tasks) if self.tasks else self.energy


def residual(moment: Tensor, basis: Tensor) -> Tensor:
    """Return ``C - M M^T C``, shape (in, in)."""
    return moment - basis @ (basis.mT @ moment)


def leading(matrix: Tensor, basis: Tensor, count: int, seed: int) -> Tensor:
    """Return leading left singular vectors, orthogonal to a basis, random ones where there are too few, (in, count)."""
    left, sizes, _ = torch.linalg.svd(matrix)
    real = int((sizes[:count] > 1e-10 * sizes[0].clamp(min=1e-30)).sum())
    noise = torch.randn(len(matrix), count - real, generator=torch.Generator().manual_seed(seed), dtype=matrix.dtype)
    whole, _ = torch.linalg.qr(torch.cat([basis, left[:, :real], noise], dim=1))
    found: Tensor = whole[:, basis.shape[1] :]
    # The decomposition leaves signs open: the largest entry of each is made positive.
    return found * found.gather(0, found.abs().argmax(dim=0, keepdim=True)).sign()


def grown(moment: Tensor, basis: Tensor, share: float) -> Tensor:
    """Return the basis with the fewest leading directions of what it misses so that it holds a share of the energy."""
    left, sizes, _ = torch.linalg.svd(residual(moment, basis))
    whole = moment.square().sum()
    held = (basis.mT @ moment).square().sum() + torch.cat([sizes.new_zeros(1), sizes.square().cumsum(dim=0)])
    count = min(int((held < share * whole * (1 - 1e-12)).sum()), len(moment) - basis.shape[1])
    larger: Tensor = torch.linalg.qr(torch.cat([basis, left[:, :count]], dim=1))[0]
    return larger


def _bases(run: Run) -> dict[str, Tensor]:
    """Return M of each site, (in, directions), float64; nothing at the first task."""
    state = run.past[-1].state() if run.past else {}
    return {key.partition("/")[2]: kept.double() for key, kept in state.items() if key.startswith(f"{_BASIS}/")}
