from __future__ import annotations

import pytest
import torch
from refusals import refused

from clora_cli.methods import Factors, n_lora
from clora_cli.methods.n_lora import NLora

# B A = (1, 2)^T (3, -1) = [[3, -1], [6, -2]] with rank 1, in = out = 2; scaling 2; A B = 3 - 2 = 1.
GIVEN = Factors(torch.tensor([[[3.0, -1.0]]]), torch.tensor([[[1.0], [2.0]]]), 2.0, None, None)


def test_raw_by_hand():
    # ||2 B A||_1 = 24; S = [[1, -1], [1, -1]]; S A^T = (4, 4)^T; B^T S = (3, -3)
    penalty = NLora(raw_strength=0.5).penalty(GIVEN)
    assert penalty.value.item() == 0.5 * 24
    assert penalty.grad_b.tolist() == [[[4.0], [4.0]]]
    assert penalty.grad_a.tolist() == [[[3.0, -3.0]]]


def test_normalised_by_hand():
    # divided by sqrt(2 * 2)
    penalty = NLora(strength=0.5).penalty(GIVEN)
    assert penalty.value.item() == 0.5 * 24 / 2
    assert penalty.grad_b.tolist() == [[[2.0], [2.0]]]
    assert penalty.grad_a.tolist() == [[[1.5, -1.5]]]


def test_the_normalisation_is_by_the_root_of_the_layer_and_not_of_the_rank():
    given = Factors(torch.ones(1, 3, 9), torch.ones(1, 4, 3), 1.0, None, None)
    assert NLora(strength=1).penalty(given).value.item() == pytest.approx(3 * 36 / 6)


def test_the_published_product_by_hand():
    # ||A B||_1 = 1, sign 1, no scaling: slopes B^T and A^T
    penalty = NLora(target="ab", raw_strength=3).penalty(GIVEN)
    assert penalty.value.item() == 3
    assert penalty.grad_a.tolist() == [[[3.0, 6.0]]]
    assert penalty.grad_b.tolist() == [[[9.0], [-3.0]]]


def test_the_ablation_s_factors_by_hand():
    # ||A||_1 = 4 and ||B||_1 = 3, of two entries each; no scaling
    for target, value in (("a", 4), ("b", 3), ("a+b", 7)):
        assert NLora(target=target, raw_strength=0.5).penalty(GIVEN).value.item() == 0.5 * value
        penalty = NLora(target=target, strength=0.5).penalty(GIVEN)
        assert penalty.value.item() == pytest.approx(0.5 * value / 2**0.5)
        assert (penalty.grad_a is None) == (target == "b") and (penalty.grad_b is None) == (target == "a")
    assert torch.allclose(penalty.grad_a, torch.tensor([[[0.5, -0.5]]]) / 2**0.5)


@pytest.mark.parametrize("target", ["ba", "ab"])
def test_tiles_give_what_one_piece_gives(monkeypatch, target):
    generator = torch.Generator().manual_seed(0)
    given = Factors(
        torch.randn(2, 3, 11, generator=generator), torch.randn(2, 11, 3, generator=generator), 0.5, None, None
    )
    method = NLora(target=target, raw_strength=0.4)
    whole = method.penalty(given)
    for tile in (1, 22, 23, 45):  # 1 row, 2 rows and a remainder, fewer entries than a row
        monkeypatch.setattr(n_lora, "_TILE", tile)
        tiled = method.penalty(given)
        for name in ("value", "grad_a", "grad_b"):
            assert torch.allclose(getattr(tiled, name), getattr(whole, name), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("target", ["ba", "ab"])
def test_the_printed_formula_as_torch_autograd_sees_it(target):
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(2, 3, 6, generator=generator, requires_grad=True)
    b = torch.randn(2, 6, 3, generator=generator, requires_grad=True)
    product = 2.0 * b @ a if target == "ba" else a @ b
    value = 0.4 * product.abs().sum()
    gradients = torch.autograd.grad(value, (a, b))
    penalty = NLora(target=target, raw_strength=0.4).penalty(Factors(a.detach(), b.detach(), 2.0, None, None))
    assert torch.allclose(penalty.value, value.detach(), rtol=1e-5)
    assert torch.allclose(penalty.grad_a, gradients[0], atol=1e-5)
    assert torch.allclose(penalty.grad_b, gradients[1], atol=1e-5)


def test_the_default_is_recorded_under_the_name_of_the_variant():
    assert (NLora().strength, NLora().raw_strength) == (0.4, None)
    assert (NLora(target="ab").strength, NLora(target="ab").raw_strength) == (None, 0.4)
    assert NLora(raw_strength=0).strength is None


def test_options_that_exclude_each_other():
    with refused("options-exclude-each-other", "strength", "raw_strength"):
        NLora(strength=1, raw_strength=1)
    with refused("options-exclude-each-other", "target=ab", "raw_strength"):
        NLora(strength=1, target="ab")


def test_the_published_product_needs_square_layers():
    with refused("layer-not-square", "4 x 6"):
        NLora(target="ab").penalty(Factors(torch.ones(1, 2, 6), torch.ones(1, 4, 2), 1.0, None, None))
