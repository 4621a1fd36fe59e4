"""What the metrics share: the array type and a mean that is NaN when there is nothing to average."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["Floats", "mean"]

Floats = NDArray[np.float64]


def mean(values: Floats) -> float:
    """Return the mean of all entries; NaN without entries or with a NaN among them, and never a warning."""
    return float(values.mean()) if values.size else float("nan")
