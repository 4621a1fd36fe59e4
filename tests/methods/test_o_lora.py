from __future__ import annotations

import pytest
import torch

from clora_cli.methods import Factors
from clora_cli.methods.o_lora import OLora

# One site, in = 3. New A of rank 1, past of two tasks of rank 1 each; B and scalings play no part.
A = torch.tensor([[[1.0, -2.0, 0.0]]])
PAST = torch.tensor([[[3.0, 1.0, 5.0], [0.0, 2.0, 1.0]]])
GIVEN = Factors(A, torch.full((1, 2, 1), 7.0), 9.0, PAST, torch.full((1, 2, 2), 7.0))


def test_squared_by_hand():
    # overlaps 3 - 2 = 1 and -4; squares 1 + 16; slope 2 * (1 * (3, 1, 5) - 4 * (0, 2, 1))
    penalty = OLora(strength=0.5).penalty(GIVEN)
    assert penalty.value.item() == 0.5 * 17
    assert penalty.grad_a.tolist() == [[[3.0, -7.0, 1.0]]]
    assert penalty.grad_b is None


def test_absolute_by_hand():
    # |1| + |-4|; slope (3, 1, 5) - (0, 2, 1)
    penalty = OLora(strength=2, norm="absolute").penalty(GIVEN)
    assert penalty.value.item() == 2 * 5
    assert penalty.grad_a.tolist() == [[[6.0, -2.0, 8.0]]]


def test_orthogonal_subspaces_cost_nothing():
    penalty = OLora().penalty(Factors(torch.tensor([[[-1.0, -2.0, 1.0]]]), GIVEN.b, 1.0, PAST[:, :1], GIVEN.past_b))
    assert penalty.value.item() == 0
    assert not penalty.grad_a.any()


def test_without_a_past_it_does_not_act():
    assert OLora().penalty(Factors(A, GIVEN.b, 1.0, None, None)) is None


@pytest.mark.parametrize("norm", ["squared", "absolute"])
def test_published_code_as_torch_autograd_sees_it(norm):
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(2, 3, 6, generator=generator, requires_grad=True)
    past = torch.randn(2, 5, 6, generator=generator)
    value = sum(((p @ n.T) ** 2 if norm == "squared" else (p @ n.T).abs()).sum() for p, n in zip(past, a, strict=True))
    (gradient,) = torch.autograd.grad(value, a)
    penalty = OLora(strength=1, norm=norm).penalty(Factors(a.detach(), torch.zeros(2, 4, 3), 1.0, past, None))
    assert torch.allclose(penalty.value, value.detach())
    assert torch.allclose(penalty.grad_a, gradient, atol=1e-5)
