"""Average the adapters, each entry weighted by its Fisher information."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from clora_cli.merges import Deltas, Merge

__all__ = ["Fisher"]


@dataclass(frozen=True, kw_only=True)
class Fisher(Merge):
    """Average the adapters, each entry weighted by its Fisher information.

    ``merged[i, j] = sum_k w_k F_k[i, j] delta_k[i, j] / sum_k w_k F_k[i, j]`` with diagonals F_k of each layer's weight
    that the adapters keep as ``fisher/<site>``. No method of clora's keeps them (ewc's are of ``lora_A`` and ``lora_B``): they are for
    adapters to which you add them.
    The weights are relative; a negative one turns its adapter around.

    References:
        Matena and Raffel, Merging Models with Fisher-Weighted Averaging, 2021, arXiv:2111.09832. Averaging deltas is
        averaging parameters: all share one base model.
        Differs: where all F_k are 0, the plain weighted mean is taken.
    """

    by_rows = True
    needs = ("fisher",)

    def merge(self, deltas: Deltas) -> Tensor:
        """Return the merged delta, shape (rows, in).

        Raises:
            ArtifactError: If an adapter keeps no Fisher information at this site.
        """
        weights = deltas.weights.tolist()
        total, information, plain = (torch.zeros(()) for _ in range(3))
        for weight, delta, fisher in zip(weights, deltas.weighted(), deltas.state("fisher"), strict=True):
            plain = plain + delta
            information = information + fisher.to(delta.dtype) * abs(weight)
            total = total + delta.mul_(fisher)
        everyone = sum(map(abs, weights)) or 1.0
        return torch.where(information > 0, total.div_(information), plain.div_(everyone))
