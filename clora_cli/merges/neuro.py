"""Merge what is parallel to each neuron's base weights and what is orthogonal to them apart, and scale either."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from clora_cli.base.errors import OptionError
from clora_cli.base.intervals import check_option
from clora_cli.merges import Deltas, Merge
from clora_cli.merges._combine import Election
from clora_cli.merges._prune import keep_largest

__all__ = ["Neuro"]


@dataclass(frozen=True, kw_only=True)
class Neuro(Merge):
    """Merge what is parallel to each neuron's base weights and what is orthogonal to them apart, and scale either.

    A row d of a delta is split along the same row w of the base weight: ``d = c w / |w| + rest`` with ``c = d . w / |w|``.
    The c and the rests are each merged as in ``ties`` (elect a sign, average those that have it); a row that is 0 in the
    base has no parallel part. ``merged = parallel * c w / |w| + orthogonal * rest``. The weights are relative; a negative
    one turns its adapter around. Because the parts are scaled, one adapter alone does not stay as it is.

    Args:
        parallel: The factor of the merged parallel part, any number.
        orthogonal: The factor of the merged orthogonal part, any number.
        density: The share of each adapter's entries that is kept at each site before the split; above 0, up to 1.

    References:
        Fang et al., Disentangling Task Interference within Neurons: Model Merging in Alignment with Neuronal Mechanisms
        (NeuroMerging), 2025, arXiv:2503.05320; factors 1 and 3: Zhou et al., Resolving Conflicts in Lifelong Learning via
        Aligning Updates in Subspaces (PS-LoRA), 2025, arXiv:2512.08960, which compares with it in table 19.
        Differs: the first paper drops the parallel part (parallel=0), derives the orthogonal part's factor from what was
        trimmed, and treats parameters that are no rows of a matrix apart; here both factors are options.
        Differs: PS-LoRA names no trimming and no weights; ``density=1`` trims nothing.
    """

    parallel: float = 1.0
    orthogonal: float = 3.0
    density: float = 1.0

    needs = ("base",)

    def __post_init__(self) -> None:
        """Check the options."""
        check_option("neuro", "parallel", self.parallel, "(-inf, inf)")
        check_option("neuro", "orthogonal", self.orthogonal, "(-inf, inf)")
        check_option("neuro", "density", self.density, "(0, 1]")

    def merge(self, deltas: Deltas) -> Tensor:
        """Return the merged delta, shape (rows, in).

        Raises:
            OptionError: If the base model's weights are not given.
        """
        if deltas.base is None:
            raise OptionError("--strategy neuro needs the base model's weights: name the model", code="option-missing")
        unit = functional.normalize(deltas.base.to(torch.promote_types(deltas.base.dtype, torch.float32)), dim=1)
        along, across = Election(), Election()
        for weight, delta in zip(deltas.weights.tolist(), deltas, strict=True):
            unit = unit.to(delta.dtype)
            rest = keep_largest(delta, self.density)
            parallel = torch.einsum("oi,oi->o", rest, unit)[:, None]
            across.add(weight, rest.addcmul_(parallel, unit, value=-1))
            along.add(weight, parallel)
        return across.mean().mul_(self.orthogonal).addcmul_(along.mean(), unit, value=self.parallel)
