from __future__ import annotations

import pytest
import torch

from clora_cli.methods import Activity
from clora_cli.methods.migu import Migu

A = torch.tensor([[0.1, 0.4, 0.3], [5.0, 1.0, 2.0]])
B = torch.tensor([[1.0, 2.0, 3.0, 4.0], [8.0, 6.0, 7.0, 5.0]])


def test_by_hand():
    # floor(0.7 * 3) = 2 rows of three are masked, floor(0.7 * 4) = 2 of four
    a, b = Migu().filter_gradients(Activity(A, B, first=False))
    assert a.tolist() == [[0, 1, 0], [1, 0, 0]]
    assert b.tolist() == [[0, 0, 1, 1], [1, 0, 1, 0]]


def test_the_first_task_is_trained_whole_unless_told_otherwise():
    assert Migu().filter_gradients(Activity(A, B, first=True)) is None
    assert Migu(first=True).filter_gradients(Activity(A, B, first=True)) is not None


@pytest.mark.parametrize(("share", "kept"), [(0.0, 0), (0.3, 3), (0.31, 4), (0.9, 9), (1.0, 10)])
def test_the_number_of_masked_rows_is_rounded_down(share, kept):
    rows = Migu(share=share).filter_gradients(Activity(torch.rand(1, 10), torch.rand(1, 10), first=False))
    assert [int(side.sum()) for side in rows] == [kept, kept]


def test_of_equal_magnitudes_the_last_stay():
    a, _ = Migu(share=0.5).filter_gradients(Activity(torch.ones(1, 4), torch.ones(1, 4), first=False))
    assert a.tolist() == [[0, 0, 1, 1]]
