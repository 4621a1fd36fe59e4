"""Which entries compete in a trim, which of them stay, and how a reference pulls them (layer L3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from clora_cli.algebra.lora import Factor
from clora_cli.base.errors import MismatchError
from clora_cli.store.adapter_folder import AdapterFolder

__all__ = ["Cut", "pull", "pulls", "side_of", "warnings_of"]


@dataclass(frozen=True, eq=False)
class Cut:
    """Entries that competed with one another, and which of them stay.

    Attributes:
        side: ``"A"`` or ``"B"``.
        shapes: Site to its factor's shape, in the order in which their entries come.
        values: The entries, shape (entry,), float32.
        kept: Which of them stay, shape (entry,), bool.
        warning: What the trim has to say of it; empty if nothing.
    """

    side: str
    shapes: Mapping[str, tuple[int, ...]]
    values: Tensor
    kept: Tensor
    warning: str = ""

    @property
    def threshold(self) -> float | None:
        """The least magnitude that stays, if nothing that goes is larger."""
        stay, go = self.values[self.kept].abs(), self.values[~self.kept].abs()
        if not len(stay) or (len(go) and bool(go.max() > stay.min())):
            return None
        return stay.min().item()

    def masks(self) -> dict[str, Tensor]:
        """Return the mask of each site, of its factor's shape."""
        sizes = [torch.Size(shape).numel() for shape in self.shapes.values()]
        parts = zip(self.shapes.items(), torch.split(self.kept, sizes), strict=True)
        return {site: part.view(shape) for (site, shape), part in parts}


def warnings_of(cuts: Sequence[Cut], scope: str) -> list[str]:
    """Return what a trim has to say of its cuts, each with its factor and, in the scope ``site``, its site."""
    where = {id(cut): "" if scope == "all" else f" at {next(iter(cut.shapes))}" for cut in cuts}
    return [f"lora_{cut.side}{where[id(cut)]}: {cut.warning}" for cut in cuts if cut.warning]


def side_of(factor: Factor, side: str) -> Tensor:
    """Return ``lora_A`` or ``lora_B`` of a pair; ``side`` is ``"A"`` or ``"B"``."""
    return factor.a if side == "A" else factor.b


def pulls(
    factors: Mapping[str, Factor], reference: Sequence[AdapterFolder], sides: Sequence[str]
) -> dict[tuple[str, str], Tensor]:
    """Return ``pull`` of a reference's summed delta for every entry of an adapter; one member is held at a time.

    Args:
        factors: The adapter's, by site.
        reference: The members whose deltas are added up, factors or dense ones, scalings included.
        sides: ``"A"``, ``"B"`` or both.

    Returns:
        Side and site to numbers of the factor's shape, float64; 0 at sites that the reference does not change.

    Raises:
        MismatchError: If a layer of the reference has another shape.
        CloraError: If a member is damaged.
    """
    total = {
        (side, site): torch.zeros_like(side_of(factor, side), dtype=torch.float64)
        for side in sides
        for site, factor in factors.items()
    }
    for member in reference:
        for site, delta in member.deltas().items():
            if (factor := factors.get(site)) is None:
                continue
            if tuple(delta.shape) != factor.shape:
                raise MismatchError(
                    f"layer '{site}' is {tuple(delta.shape)} in {member.path} and {factor.shape} in the adapter; "
                    "give adapters of one base model",
                    code="layer-shapes-differ",
                )
            for side in sides:
                total[side, site] += pull(factor, delta, side)
    return total


def pull(factor: Factor, delta: Factor | Tensor, side: str) -> Tensor:
    """Return the inner product of another delta R with the change of this one that a unit of each entry makes.

    ``<scaling * e_o e_r^T A, R> = scaling * (R A^T)[o, r]`` for an entry of ``lora_B``, ``scaling * (B^T R)[r, i]`` for one
    of ``lora_A``; where R is a pair of factors, no matrix of shape (out, in) is made.

    Args:
        factor: This adapter's factors at a site.
        delta: R there, shape (out, in), or its factors.
        side: ``"A"`` or ``"B"``.

    Returns:
        Of the factor's shape, float64.
    """
    a, b = factor.a.double(), factor.b.double()
    if isinstance(delta, Tensor):
        whole = delta.double()
        return factor.scaling * (whole @ a.mT if side == "B" else b.mT @ whole)
    other_a, other_b = delta.a.double(), delta.b.double() * delta.scaling
    return factor.scaling * (other_b @ (other_a @ a.mT) if side == "B" else (b.mT @ other_b) @ other_a)
