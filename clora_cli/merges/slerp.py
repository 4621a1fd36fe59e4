"""Turn the merged delta towards one adapter after the other, along the arc between them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from clora_cli.algebra.lora import Factor
from clora_cli.merges import Deltas, Merge
from clora_cli.merges._cores import Cores

__all__ = ["Slerp"]

_FLAT = 1e-6  # sine of an angle below which the arc is taken for a line
# Of the longer of two matrices: what opposite ones leave of each other is rounding, and has no direction.
_NOTHING = 1e-6


@dataclass(frozen=True, kw_only=True)
class Slerp(Merge):
    """Turn the merged delta towards one adapter after the other, along the arc between them.

    ``M_t`` lies ``1 / t`` of the way from ``M_{t-1}`` to ``w_t delta_t``: with the angle o between both, seen as vectors, its
    direction is ``(sin((1 - 1/t) o) m + sin(o / t) d) / sin(o)`` of their directions m and d, and its norm changes by
    ``1 / t`` of the difference. So a mean of adapters that point elsewhere does not shrink. The adapters' order matters. Exact
    on factors. At a layer that an adapter lacks it does not count, nor for t: nothing shrinks towards what it never changed.

    References:
        Goddard et al., Arcee's MergeKit: A Toolkit for Merging Large Language Models, 2024, arXiv:2403.13257, whose SLERP is of two
        models; the interpolation is Shoemake's, Animating Rotation with Quaternion Curves, 1985.
        Differs: of any number of adapters, one after the other, with the weight of a running mean.
        Differs: deltas are turned, not whole weights; where one is 0 or both are in line, the arc is the line between them.
    """

    low_rank = True
    ordered = True

    def merge(self, deltas: Deltas) -> Factor | Tensor:
        """Return the merged delta, factors of factors."""
        cores = Cores(deltas)
        merged = torch.zeros(1, 1)
        for number, core in enumerate(cores.weighted(), start=1):
            merged = core if number == 1 else on_the_arc(merged, core, 1 / number)
        return cores.whole(merged)


def on_the_arc(start: Tensor, end: Tensor, share: float) -> Tensor:
    """Return what lies a share of the way from one matrix to another of its shape, along the arc."""
    sizes = start.norm(), end.norm()
    if not (sizes[0] and sizes[1]):
        return torch.lerp(start, end, share)
    angle = ((start * end).sum() / (sizes[0] * sizes[1])).clamp(-1, 1).acos()
    if angle.sin() < _FLAT:
        between = torch.lerp(start, end, share)
        return between if between.norm() > _NOTHING * max(sizes) else torch.zeros_like(between)
    along = ((1 - share) * angle).sin() * start / sizes[0] + (share * angle).sin() * end / sizes[1]
    found: Tensor = along / angle.sin() * torch.lerp(*sizes, share)
    return found
