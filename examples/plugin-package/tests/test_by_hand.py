"""One example worked out by hand from each equation."""

from __future__ import annotations

import math

import numpy as np
import torch
from clora_example.balanced import Balanced
from clora_example.energy import Energy
from clora_example.minkowski import Minkowski
from clora_example.row_sparse import RowSparse
from clora_example.worst_task import worst_task

from clora_cli.algebra.statistics import Moments, Prototypes
from clora_cli.merges import Deltas
from clora_cli.methods import Factors
from clora_cli.trims import Entries


def test_row_sparse():
    # A = (3, 4), B = (2, 0)^T: delta = 2 * ((6, 8), (0, 0)), whose rows have the norms 20 and 0
    a, b = torch.tensor([[[3.0, 4.0]]]), torch.tensor([[[2.0], [0.0]]])
    penalty = RowSparse(strength=0.5).penalty(Factors(a, b, 2.0, None, None))
    assert penalty is not None
    assert penalty.value.item() == 0.5 * 20
    # d/dA = w scaling B_1 A B_1 / ||A|| |B_1| = 0.5 * 2 * 2 * (3, 4) / 5; d/dB_1 = 0.5 * 2 * 5; the other row has no slope
    torch.testing.assert_close(penalty.grad_a, torch.tensor([[[1.2, 1.6]]]))
    torch.testing.assert_close(penalty.grad_b, torch.tensor([[[5.0], [0.0]]]))


def test_balanced():
    # norms 5 and 15: the mean is 10, so the first counts twice and the second two thirds
    deltas = Deltas([torch.tensor([[3.0, 4.0]]), torch.tensor([[0.0, 15.0]])], torch.tensor([1.0, -1.0]))
    torch.testing.assert_close(Balanced().merge(deltas), torch.tensor([[6.0, -2.0]]))


def test_energy():
    # squares 16, 9, 1, 0 of 26: 16 are 62 %, 25 are 96 %
    values = torch.tensor([0.0, 3.0, -4.0, 1.0])
    assert Energy(share=0.6).keep(Entries(values)).mask.tolist() == [False, False, True, False]
    assert Energy(share=0.9).keep(Entries(values)).mask.tolist() == [False, True, True, False]
    assert Energy(share=1.0).keep(Entries(values)).mask.tolist() == [False, True, True, True]


def test_minkowski():
    means = Prototypes([Moments.of(torch.tensor([[0.0, 0.0]])), Moments.of(torch.tensor([[3.0, 4.0]]))])
    similarities = {p: Minkowski(p=p).fit(means)(torch.zeros(1, 2)) for p in (1.0, 2.0)}
    torch.testing.assert_close(similarities[1.0], torch.tensor([[0.0, -7.0]], dtype=torch.float64))
    torch.testing.assert_close(similarities[2.0], torch.tensor([[0.0, -5.0]], dtype=torch.float64))


def test_worst_task():
    assert worst_task(np.array([[90.0, 10.0], [40.0, 80.0]])) == 40.0
    assert math.isnan(worst_task(np.array([[90.0, 10.0], [40.0, math.nan]])))
