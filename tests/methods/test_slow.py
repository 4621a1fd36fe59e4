from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from clora_cli.algebra.lora import Factor
from clora_cli.methods.slow import Slow


def run_of(value):
    return SimpleNamespace(
        step=0, kept={}, trainable={"s": Factor(torch.tensor([[value]]), torch.tensor([[2 * value]]), 1.0)}
    )


@pytest.mark.parametrize(("decay", "expected"), [(0.9, 5.0), (0.25, 7.1875), (0.0, 8.0)])
def test_by_hand(decay, expected):
    # from 1, the fast one goes to 6 and then to 8: d is 1/2 and 2/3, but for a smaller decay:
    # 3.5 and 3.5 * 2/3 + 8/3 = 5; 4.75 and 4.75/4 + 6 = 7.1875 with 0.25
    run = run_of(1.0)
    Slow(decay=decay).begin(run)
    for run.step, value in ((1, 6.0), (2, 8.0)):
        run.trainable["s"].a.fill_(value)
        Slow(decay=decay).after_step(run)
    Slow(decay=decay).finish(run)
    assert run.trainable["s"].a.item() == pytest.approx(expected)
    assert run.trainable["s"].b.item() == pytest.approx(2.0)


def test_a_run_that_is_continued_keeps_its_slow_copy():
    run = run_of(1.0)
    run.kept["slow_a/s"] = torch.tensor([[7.0]])
    Slow().begin(run)
    assert run.kept["slow_a/s"].item() == 7 and run.kept["slow_b/s"].item() == 2
