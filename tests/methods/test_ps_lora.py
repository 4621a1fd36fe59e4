from __future__ import annotations

import math

import pytest
import torch
from refusals import refused

from clora_cli.methods import Factors, ps_lora
from clora_cli.methods.ps_lora import PsLora

# w = 2 (1, 2)^T (3, -1) = [[6, -2], [12, -4]]; P = (1, -1)^T (1, 1) = [[1, 1], [-1, -1]], whose rms is 1.
GIVEN = Factors(
    torch.tensor([[[3.0, -1.0]]], dtype=torch.float64),
    torch.tensor([[[1.0], [2.0]]], dtype=torch.float64),
    2.0,
    torch.tensor([[[1.0, 1.0]]], dtype=torch.float64),
    torch.tensor([[[1.0], [-1.0]]], dtype=torch.float64),
)
DELTA = torch.tensor([[6.0, -2.0], [12.0, -4.0]], dtype=torch.float64)
PAST = torch.tensor([[1.0, 1.0], [-1.0, -1.0]], dtype=torch.float64)


def naive(a, b, past, alpha, method, scaling):
    w = scaling * b @ a
    disagreement = 1 - torch.tanh(alpha * w) * torch.tanh(alpha * past)
    if method.terms == "sign":
        return disagreement.mean()
    return (w**2).sum() * disagreement.mean() if method.reading == "scalar-mean" else (w**2 * disagreement).sum()


def test_signs_that_agree_cost_nothing_and_opposite_ones_twice():
    # At a high temperature tanh is the sign: entries (0,0) and (1,1) agree with the past, (0,1) and (1,0) oppose it.
    penalty = PsLora(strength=0.5, raw_temperature=1e6).penalty(GIVEN)
    assert penalty.value.item() == pytest.approx(0.5 * 2 * (2**2 + 12**2))
    # slope 2 w (1 - s): [[0, -8], [48, 0]] times scaling 2; B-side: slope A^T, A-side: B^T slope; strength 0.5
    assert penalty.grad_b.flatten().tolist() == pytest.approx([0.5 * 2 * 8, 0.5 * 2 * 144])
    assert penalty.grad_a.flatten().tolist() == pytest.approx([0.5 * 2 * 2 * 48, 0.5 * 2 * -8])


@pytest.mark.parametrize("reading", ["elementwise", "scalar-mean"])
@pytest.mark.parametrize("terms", ["both", "sign"])
def test_value_and_gradient_are_those_of_the_equation(reading, terms):
    generator = torch.Generator().manual_seed(1)
    a, b, past_a, past_b = (
        torch.randn(*shape, generator=generator, dtype=torch.float64) * 0.3
        for shape in ((1, 2, 7), (1, 5, 2), (1, 3, 7), (1, 5, 3))
    )
    method = PsLora(strength=0.7, raw_temperature=1.5, reading=reading, terms=terms)
    penalty = method.penalty(Factors(a, b, 0.5, past_a, past_b))
    a0, b0 = a[0].clone().requires_grad_(), b[0].clone().requires_grad_()
    value = 0.7 * naive(a0, b0, past_b[0] @ past_a[0], 1.5, method, 0.5)
    value.backward()
    assert penalty.value.item() == pytest.approx(value.item())
    assert torch.allclose(penalty.grad_a[0], a0.grad)
    assert torch.allclose(penalty.grad_b[0], b0.grad)


def test_the_temperature_is_relative_to_the_past():
    relative = PsLora(temperature=2.0)
    past_ten_times = Factors(GIVEN.a, GIVEN.b, 2.0, GIVEN.past_a, 10 * GIVEN.past_b)
    assert relative.penalty(GIVEN).value.item() == pytest.approx(
        PsLora(raw_temperature=2.0).penalty(GIVEN).value.item()
    )
    assert relative.penalty(past_ten_times).value.item() == pytest.approx(
        PsLora(raw_temperature=0.2).penalty(past_ten_times).value.item()
    )


def test_without_a_past_it_is_the_squared_norm():
    first = Factors(GIVEN.a, GIVEN.b, 2.0, None, None)
    squared = (DELTA**2).sum().item()
    for method in (PsLora(strength=0.5), PsLora(strength=0.5, terms="magnitude")):
        assert method.penalty(first).value.item() == pytest.approx(0.5 * squared)
    assert PsLora(strength=0.5, terms="magnitude").penalty(GIVEN).value.item() == pytest.approx(0.5 * squared)
    assert PsLora(terms="sign").penalty(first) is None
    assert PsLora(first=False).penalty(first) is None
    assert PsLora(first=False).penalty(GIVEN) is not None


def test_a_dense_past_gives_what_its_factors_give():
    dense = Factors(GIVEN.a, GIVEN.b, 2.0, None, None, past_delta=PAST[None])
    one, other = PsLora().penalty(GIVEN), PsLora().penalty(dense)
    assert torch.equal(one.value, other.value) and torch.equal(one.grad_a, other.grad_a)


def test_a_past_of_zeros_leaves_the_squared_norm():
    zeros = Factors(GIVEN.a, GIVEN.b, 2.0, GIVEN.past_a, 0 * GIVEN.past_b)
    assert PsLora(strength=1.0).penalty(zeros).value.item() == pytest.approx((DELTA**2).sum().item())


@pytest.mark.parametrize("reading", ["elementwise", "scalar-mean"])
def test_tiles_give_what_one_piece_gives(monkeypatch, reading):
    whole = PsLora(reading=reading).penalty(GIVEN)
    monkeypatch.setattr(ps_lora, "_TILE", 1)
    tiled = PsLora(reading=reading).penalty(GIVEN)
    assert torch.allclose(whole.value, tiled.value)
    assert torch.allclose(whole.grad_a, tiled.grad_a) and torch.allclose(whole.grad_b, tiled.grad_b)


def test_the_package_is_combined_as_the_past_was():
    assert (PsLora().past, PsLora().combine) == ("sum", "sum")
    assert (PsLora(past="magmax").past, PsLora(past="magmax").combine) == ("magmax", "magmax")


def test_options_are_checked():
    with refused("options-exclude-each-other", "temperature", "raw_temperature"):
        PsLora(temperature=1.0, raw_temperature=1.0)
    with refused("option-out-of-range", "raw_temperature=0.0", "ps-lora"):
        PsLora(raw_temperature=0.0)
    assert PsLora().temperature == 1.0 and math.isclose(PsLora().strength, 0.01)
