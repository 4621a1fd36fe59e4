from __future__ import annotations

import math

import pytest
import torch
from refusals import refused

from clora_cli.methods.lwf import Lwf


def test_by_hand():
    # At T = 2, logits of 2 ln 3 and 0 are probabilities of 3/4 and 1/4; the new model has 1/2 and 1/2.
    old, new = torch.tensor([[2 * math.log(3), 0.0]]), torch.zeros(1, 2)
    divergence = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert Lwf(strength=3).divergence(new, old).item() == pytest.approx(3 * 4 * divergence, rel=1e-6)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_the_gradient_is_the_difference_of_the_softened_answers(temperature):
    generator = torch.Generator().manual_seed(0)
    new, old = (torch.randn(4, 7, generator=generator, dtype=torch.float64) for _ in range(2))
    new.requires_grad_()
    (slope,) = torch.autograd.grad(Lwf(strength=3, temperature=temperature).divergence(new, old), new)
    soft_new, soft_old = ((logits / temperature).softmax(-1) for logits in (new, old))
    assert torch.allclose(slope, 3 * temperature * (soft_new - soft_old))


def test_a_temperature_of_0_is_refused():
    with refused("option-out-of-range", "temperature=0", "lwf"):
        Lwf(temperature=0)


def test_answers_that_did_not_change_cost_nothing():
    old = torch.randn(6, 11, generator=torch.Generator().manual_seed(0)) * 4
    new = old.clone().requires_grad_()
    term = Lwf().divergence(new, old)
    (slope,) = torch.autograd.grad(term, new)
    assert term.shape == ()
    assert abs(term.item()) < 1e-5
    assert float(slope.abs().max()) < 1e-5


def test_tokens_add_up_one_by_one():
    generator = torch.Generator().manual_seed(0)
    new, old = (torch.randn(6, 11, generator=generator, dtype=torch.float64) * 3 for _ in range(2))
    whole = Lwf().divergence(new, old)
    assert whole.item() > 0
    assert torch.allclose(whole, sum(Lwf().divergence(new[i : i + 2], old[i : i + 2]) for i in range(0, 6, 2)))
