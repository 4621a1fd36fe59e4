"""Where inputs went: accuracy."""

from __future__ import annotations

from dataclasses import replace

import pytest
from reported import ROUTES


def test_accuracy_is_the_share_that_reached_an_adapter_that_knows_the_task():
    assert ROUTES.inputs == (10, 50, 3)
    assert [ROUTES.accuracy(task) for task in range(3)] == [90, 60, None]
    assert ROUTES.macro == pytest.approx(75)
    assert ROUTES.micro == pytest.approx(100 * 39 / 60)
    both = replace(ROUTES, knows=((0, 1), (1,), ()))
    assert both.accuracy(0) == 100
    nobody = replace(ROUTES, knows=((), (), ()))
    assert (nobody.known, nobody.macro, nobody.micro) == ((), None, None)
