from __future__ import annotations

from types import SimpleNamespace

import torch

from clora_cli.algebra.lora import Factor
from clora_cli.methods.osf_lora import OsfLora, leading
from clora_cli.testing.requirements import draw


def test_by_hand():
    # singular values 5, 2 and 1 along the axes: the first is the model's
    factor = Factor(torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[1.0], [1.0], [1.0]]), 1.0)
    weights = [("site", torch.diag(torch.tensor([2.0, 5.0, 1.0])))]
    run = SimpleNamespace(step=0, seed=0, kept={}, trainable={"site": factor}, weights=lambda: weights)
    OsfLora(directions=1).begin(run)
    assert torch.allclose(factor.a, torch.tensor([[1.0, 0.0, 3.0]]), atol=1e-6)
    assert torch.allclose(factor.b, torch.tensor([[1.0], [0.0], [1.0]]), atol=1e-6)
    factor.b[1] = 7.0
    OsfLora(directions=1).after_step(run)
    assert abs(float(factor.b[1])) < 1e-5


def test_as_many_directions_are_free_as_the_rank_needs():
    factor = Factor(draw(2, 4).float(), draw(5, 2, seed=1).float(), 1.0)
    run = SimpleNamespace(
        step=0, seed=0, kept={}, trainable={"site": factor}, weights=lambda: [("site", draw(5, 4).float())]
    )
    OsfLora(directions=64).begin(run)
    assert run.kept["inputs/site"].shape == (4, 2) and run.kept["outputs/site"].shape == (5, 2)
    assert float(factor.a.norm()) > 0.1


def test_leading_directions_are_those_of_the_decomposition():
    weight = draw(9, 7).float()
    left, _, right = torch.linalg.svd(weight)
    outputs, inputs = leading(weight, 3, 0)
    assert torch.allclose((outputs.mT @ left[:, :3]).abs(), torch.eye(3), atol=1e-4)
    assert torch.allclose((inputs.mT @ right[:3].mT).abs(), torch.eye(3), atol=1e-4)
    assert leading(weight, 0, 0)[1].shape == (7, 0)
