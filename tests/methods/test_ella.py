from __future__ import annotations

import pytest
import torch

from clora_cli.methods import Factors, ella
from clora_cli.methods.ella import Ella

# delta = 2 * (1, 2)^T (3, -1) = [[6, -2], [12, -4]]; P = (1, 1)^T (2, 0) = [[2, 0], [2, 0]], whose root mean square is sqrt(2).
GIVEN = Factors(
    torch.tensor([[[3.0, -1.0]]]),
    torch.tensor([[[1.0], [2.0]]]),
    2.0,
    torch.tensor([[[2.0, 0.0]]]),
    torch.tensor([[[1.0], [1.0]]]),
)


def test_by_hand():
    # (6 * 2)^2 / 2 + (12 * 2)^2 / 2 = 72 + 288; slopes 2 * w P^2 / 2 = (24, 0), (48, 0), times the scaling
    penalty = Ella(strength=0.5).penalty(GIVEN)
    assert penalty.value.item() == pytest.approx(180)
    assert torch.allclose(penalty.grad_b, 0.5 * 2 * torch.tensor([[[72.0], [144.0]]]))
    assert torch.allclose(penalty.grad_a, 0.5 * 2 * torch.tensor([[[24.0 + 96, 0.0]]]))


def test_entries_that_no_earlier_adapter_changed_are_free():
    a = torch.tensor([[[0.0, 5.0]]])
    assert Ella().penalty(Factors(a, GIVEN.b, 2.0, GIVEN.past_a, GIVEN.past_b)).value.item() == 0


def test_the_size_of_the_past_does_not_matter():
    larger = Factors(GIVEN.a, GIVEN.b, 2.0, GIVEN.past_a, 100 * GIVEN.past_b)
    assert torch.allclose(Ella().penalty(larger).value, Ella().penalty(GIVEN).value)


def test_tiles_give_what_one_piece_gives(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    shapes = (2, 3, 7), (2, 11, 3), (2, 4, 7), (2, 11, 4)
    a, b, past_a, past_b = (torch.randn(shape, generator=generator) for shape in shapes)
    given = Factors(a, b, 0.5, past_a, past_b)
    whole = Ella().penalty(given)
    for tile in (1, 14, 22):
        monkeypatch.setattr(ella, "_TILE", tile)
        tiled = Ella().penalty(given)
        assert all(
            torch.allclose(getattr(tiled, n), getattr(whole, n), rtol=1e-5) for n in ("value", "grad_a", "grad_b")
        )
