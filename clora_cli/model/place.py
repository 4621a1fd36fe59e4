"""Where a site's weight is in a model or its files (layer L1)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

__all__ = ["Place"]


@dataclass(frozen=True)
class Place:
    """Where a site's weight is.

    Attributes:
        site: The site as the model spells it: a module path; of one of the experts that a model keeps in one tensor, the
            path of them all, the expert's number and its layer's own name.
        parameter: Name of the model's parameter (or of the tensor in a file) that holds the weight.
        shape: (out, in).
        transposed: Whether it is stored as (in, out), as GPT-2's layers and tables of embeddings are.
        expert: Its number within a parameter of several experts' weights; None for a weight of its own.
        first: The first of the expert's rows that are this layer's, where several of its layers are one matrix.
        hooked: Whether the site is a module whose forward is the product, so that a hook can add to it.
    """

    site: str
    parameter: str
    shape: tuple[int, int]
    transposed: bool = False
    expert: int | None = None
    first: int = 0
    hooked: bool = True

    @property
    def module(self) -> str:
        """Path of the module whose parameter it is."""
        return self.parameter.rpartition(".")[0]

    def view(self, weight: Tensor) -> Tensor:
        """Return the site's weight within its parameter, as (out, in): what is added to it is added to the parameter."""
        if self.expert is not None:
            return weight[self.expert][self.first : self.first + self.shape[0]]
        return weight.T if self.transposed else weight
