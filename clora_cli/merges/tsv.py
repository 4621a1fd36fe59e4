"""Keep each adapter's largest singular directions, make them orthogonal to those of the others, add up."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from clora_cli.algebra.lora import Factor
from clora_cli.base.intervals import check_option
from clora_cli.merges import Deltas, Merge
from clora_cli.merges._cores import Cores, singular

__all__ = ["Tsv"]


@dataclass(frozen=True, kw_only=True)
class Tsv(Merge):
    """Keep each adapter's largest singular directions, make them orthogonal to those of the others, add up.

    Of every ``w_i delta_i = U_i S_i V_i^T`` the largest ``min(out, in) / adapters`` singular triples stay. With all of them side by
    side, ``merged = scale * U' S V'^T`` where U' and V' are the orthonormal matrices nearest to U and V (``P Q^T`` of
    ``U = P D Q^T``). Exact on factors, of which usually all triples stay.

    Args:
        scale: The factor of the result, any number.

    References:
        Gargiulo et al., Task Singular Vectors: Reducing Task Interference in Model Merging, CVPR 2025, arXiv:2412.00081:
        TSV-Merge.
        Differs: directions that two adapters share count once, with what both have there; the plain decomposition splits them
        into one shared and one arbitrary direction.
    """

    scale: float = 1.0

    low_rank = True

    def __post_init__(self) -> None:
        """Check the option."""
        check_option("tsv", "scale", self.scale, "(-inf, inf)")

    def merge(self, deltas: Deltas) -> Factor | Tensor:
        """Return the merged delta, factors of factors."""
        cores, kept = Cores(deltas), max(1, min(deltas.adapters[0].shape) // len(deltas))
        found = [tuple(part[..., :kept] for part in _triples(cores, core)) for core in cores.weighted()]
        left, sizes, right = (torch.cat(parts, dim=-1) for parts in zip(*found, strict=True))
        return cores.whole(self.scale * (nearest_orthonormal(left) * sizes) @ nearest_orthonormal(right).mT)


def nearest_orthonormal(columns: Tensor) -> Tensor:
    """Return ``P Q^T`` of ``P D Q^T``, shape (size, column), over the directions that the columns span."""
    if not columns.shape[1]:
        return columns
    left, _, right = singular(columns, torch.float32)
    nearest: Tensor = left @ right
    return nearest


def _triples(cores: Cores, core: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return U, s and V with singular directions along the last dimension of each."""
    left, sizes, right = cores.singular(core)
    return left, sizes, right.mT
