"""Ways to drop entries of a delta, by magnitude or by chance."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

__all__ = ["drop", "keep_largest"]


def keep_largest(delta: Tensor, density: float, outliers: float = 0.0) -> Tensor:
    """Set all entries to 0 but the largest by magnitude, in place, and return the delta.

    Of n entries, the ``round(outliers * n)`` largest go, the ``round(density * n)`` next ones (at least one) stay. Equal
    magnitudes are treated alike: all that equal the smallest or the largest one kept are kept.

    Args:
        delta: Of any shape.
        density: The share of entries that stay, above 0 and up to 1.
        outliers: The share of entries that are too large to stay; with the density at most 1.
    """
    size = delta.numel()
    kept = max(1, round(density * size))
    above = min(round(outliers * size), size - kept)
    if kept == size:
        return delta
    magnitudes = delta.abs()
    # NumPy selects both order statistics at once, several times faster than torch.kthvalue selects one.
    bounds = [size - above - kept, size - above - 1]
    low, high = np.partition(magnitudes.flatten().cpu().numpy(), bounds)[bounds].tolist()
    return delta.masked_fill_((magnitudes < low) | (magnitudes > high), 0)


def drop(delta: Tensor, chance: float | Tensor, generator: torch.Generator) -> Tensor:
    """Keep each entry by chance and divide it by that chance, so that its expectation stays; in place.

    Args:
        delta: Of any shape.
        chance: That an entry is kept, above 0 and up to 1: one number, or one for each entry.
        generator: Draws one number for each entry, whatever the chance.
    """
    drawn = torch.rand(delta.shape, generator=generator).to(delta.device)
    return delta.div_(chance).masked_fill_(drawn >= chance, 0)
