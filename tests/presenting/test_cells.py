"""Cells that tables share."""

from __future__ import annotations

import math

from clora_cli.presenting.cells import mean_and_deviation
from clora_cli.reporting.method_results import Spread


def test_a_number_is_written_with_two_decimals_at_most():
    assert mean_and_deviation(Spread(1.005, 0.128)) == "1.00 ± 0.13"
    assert (mean_and_deviation(Spread(-0.001)), mean_and_deviation(Spread(math.nan))) == ("0.00", "-")
    assert math.isnan(Spread.of([1.0, math.nan]).mean)
