"""Magnitudes, counted."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from clora_cli.algebra.lora import Factor
from clora_cli.reporting.shifts import measure_shift


def test_shifts_count_entries_by_magnitude():
    b = torch.tensor([[1.0], [0.0], [-0.01]])
    shift = measure_shift({"x": Factor(torch.ones(1, 4), b, 0.5), "y": torch.full((2, 2), 0.5)})
    assert shift.zeros == pytest.approx(4 / 16)
    edges = [(-10 + number / 8) for number in range(len(shift.shares) + 1)]
    seen = {low: share for (low, _), share in zip(pairwise(edges), shift.shares, strict=True) if share}
    assert seen == {-0.375: pytest.approx(8 / 16), -2.375: pytest.approx(4 / 16)}  # 0.5 and 0.005
