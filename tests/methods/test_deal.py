from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from clora_cli.algebra.lora import Factor
from clora_cli.methods.deal import Deal, coarse, fine
from clora_cli.testing.requirements import draw


def run_of(a, b, past=True):
    run = SimpleNamespace(past=[None] * past, kept={}, own={}, step=0)
    run.trainable = {"s": Factor(torch.nn.Parameter(a.clone()), torch.nn.Parameter(b.clone()), 2.0)}
    run.parameter = lambda name, start: run.own.setdefault(name, torch.nn.Parameter(start.clone()))
    return run


def test_the_coarse_band_by_hand():
    # (1 + 2 + 3 + 6) / 2 = 6, (4 + 0 + 0 + 0) / 2 = 2 where a column is missing
    band = coarse(torch.tensor([[1.0, 2.0, 4.0], [3.0, 6.0, 0.0]]))
    assert band.tolist() == [[6.0, 2.0]]
    assert fine(band, torch.Size((2, 3))).tolist() == [[3.0, 3.0, 1.0], [3.0, 3.0, 1.0]]


def test_a_step_by_hand():
    # theta 1 -> 1.5: the band grows by 0.5 * 6 = 3, and every entry of the square by 1.5
    run = run_of(torch.tensor([[1.0, 2.0], [3.0, 6.0]]), torch.tensor([[1.0, 1.0]]))
    Deal().begin(run)
    factor, theta = run.trainable["s"], run.own["band/s"]
    factor.a.grad, factor.b.grad = torch.tensor([[1.0, 0.0], [0.0, 3.0]]), torch.ones(1, 2)
    Deal().gradients(run)
    assert theta.grad.tolist() == [[6 * 2.0]] and factor.a.grad is None and factor.b.grad is None
    with torch.no_grad():
        theta.fill_(1.5)
        factor.b.zero_()
    Deal().after_step(run)
    assert factor.a.tolist() == [[2.5, 3.5], [4.5, 7.5]] and factor.b.tolist() == [[1.0, 1.0]]


@pytest.mark.parametrize("shape", [(4, 6), (3, 7), (1, 1)])
def test_theta_s_gradient_is_the_slope_of_what_lora_a_does(shape):
    run = run_of(draw(*shape), draw(2, shape[0], seed=1))
    Deal().begin(run)
    factor, theta, wanted = run.trainable["s"], run.own["band/s"], draw(2, shape[1], seed=2)
    before = factor.a.detach().clone()
    made = before + fine((theta - 1) * coarse(before), before.shape)
    (slope,) = torch.autograd.grad((factor.b.detach() @ made - wanted).square().sum(), [theta])
    (factor.b @ factor.a - wanted).square().sum().backward()
    Deal().gradients(run)
    assert torch.allclose(theta.grad.double(), slope.double(), rtol=1e-5)


def test_a_task_begins_exactly_where_the_last_one_ended_whatever_the_sizes():
    a, b = draw(3, 7).float(), draw(5, 3, seed=1).float()
    run = run_of(a, b)
    Deal().begin(run)
    Deal().after_step(run)
    assert torch.equal(run.trainable["s"].a, a) and torch.equal(run.trainable["s"].b, b)


def test_the_details_stay_whatever_theta_is():
    run = run_of(draw(4, 6), draw(2, 4, seed=1))
    Deal().begin(run)
    before = run.trainable["s"].a.detach().clone()
    with torch.no_grad():
        run.own["band/s"].copy_(draw(2, 3, seed=4))
    Deal().after_step(run)
    changed = run.trainable["s"].a.detach() - before
    assert torch.allclose(changed, fine(coarse(changed), changed.shape), atol=1e-6)


def test_the_first_task_is_trained_as_always():
    run = run_of(draw(2, 2), draw(2, 2), past=False)
    method = Deal()
    method.begin(run)
    run.trainable["s"].a.grad = torch.ones(2, 2, dtype=torch.float64)
    method.gradients(run)
    assert not run.own and run.trainable["s"].a.grad.tolist() == [[1.0, 1.0], [1.0, 1.0]]
    assert method.loss(run, SimpleNamespace()) is None


def test_the_term_s_shares_of_a_step_add_up():
    run = run_of(draw(4, 4), draw(2, 4))
    method = Deal(strength=0.5, norm=2)
    method.begin(run)
    parts = [method.loss(run, SimpleNamespace(answers=range(count), tokens=8)) for count in (3, 5)]
    assert sum(parts).item() == pytest.approx(0.5 * 2)  # four entries of 1
