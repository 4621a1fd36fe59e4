from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from clora_cli.methods import Activity
from clora_cli.methods.migu import Migu

A = torch.tensor([[0.1, 0.4, 0.3], [5.0, 1.0, 2.0]])
B = torch.tensor([[1.0, 2.0, 3.0, 4.0], [8.0, 6.0, 7.0, 5.0]])


def test_by_hand():
    # floor(0.7 * 3) = 2 rows of three are masked, floor(0.7 * 4) = 2 of four
    assert Migu().strongest(A).tolist() == [[0, 1, 0], [1, 0, 0]]
    assert Migu().strongest(B).tolist() == [[0, 0, 1, 1], [1, 0, 1, 0]]


@pytest.mark.parametrize(
    ("first", "past", "watched"), [(False, [], False), (True, [], True), (False, ["one"], True)], ids=str
)
def test_the_first_task_is_trained_whole_unless_told_otherwise(first, past, watched):
    asked = []
    Migu(first=first).begin(SimpleNamespace(past=past, watch=lambda: asked.append(True)))
    assert bool(asked) == watched


def test_every_shape_of_site_is_filtered():
    scaled = []
    given = [Activity(["one", "two"], A, B), Activity(["three"], A[:1], B[:1])]
    Migu().gradients(SimpleNamespace(activities=lambda: given, scale_rows=lambda *found: scaled.append(found)))
    assert [sites for sites, *_ in scaled] == [["one", "two"], ["three"]]
    assert all(torch.equal(a, Migu().strongest(own.a)) for (_, a, _), own in zip(scaled, given, strict=True))
    assert all(torch.equal(b, Migu().strongest(own.b)) for (_, _, b), own in zip(scaled, given, strict=True))


@pytest.mark.parametrize(("share", "kept"), [(0.0, 0), (0.3, 3), (0.31, 4), (0.9, 9), (1.0, 10)])
def test_the_number_of_masked_rows_is_rounded_down(share, kept):
    assert int(Migu(share=share).strongest(torch.rand(1, 10)).sum()) == kept


def test_of_equal_magnitudes_the_last_stay():
    assert Migu(share=0.5).strongest(torch.ones(1, 4)).tolist() == [[0, 0, 1, 1]]
