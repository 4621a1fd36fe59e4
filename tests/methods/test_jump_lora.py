"""Sparse deltas with a learned threshold: a step by hand, slopes against autograd, where the threshold starts, what is written."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from refusals import refused
from support import train

from clora_cli.algebra.lora import Factor
from clora_cli.methods.jump_lora import JumpLora, threshold
from clora_cli.testing.requirements import draw


def run_of(shape=(3, 4), step=0, steps=10, before=None):
    out, columns = shape
    whole = torch.nn.Parameter(torch.zeros(shape) if before is None else before.clone())
    fixed = torch.eye(min(shape))
    factor = Factor(fixed, whole, 1.0) if columns <= out else Factor(whole, fixed, 1.0)
    run = SimpleNamespace(trainable={"s": factor}, own={}, kept={}, report={}, seed=0, step=step, steps=steps)
    run.parameter = lambda name, start, lasts=True: run.own.setdefault(name, torch.nn.Parameter(start.clone()))
    run.whole = whole
    return run


def begun(method, up, down, tau, **chosen):
    run = run_of((len(up), len(down[0])), **chosen)
    method.begin(run)
    with torch.no_grad():
        for name, value in (("up/s", up), ("down/s", down), ("threshold", math.log(tau))):
            run.own[name].copy_(torch.as_tensor(value))
    return run


def test_a_step_by_hand():
    # w = (2, -1, 0.5); of it f leaves (2, 0, 0) at tau 1.2, and half way c = 1/2 leaves (2, -0.5, 0.25); s = 3
    method = JumpLora(rank=1, alpha=3.0, bandwidth=1.0, begin_at=0.0, end_at=1.0)
    run = begun(method, [[1.0]], [[2.0, -1.0, 0.5]], 1.2, step=5)
    method.after_step(run)
    assert run.whole.tolist() == [[6.0, -1.5, 0.75]]
    run.whole.grad = torch.tensor([[1.0, 1.0, 1.0]])
    method.gradients(run)
    # dL/dw = 3 (1, 1/2, 1/2); dL/dA = B^T of it, dL/dB = 3 (2 - 1/2 + 1/4); in the window around 1.2 is |-1| alone:
    # dL/dtau = 3 * 1/2 * 1.2 / 1, times tau for its logarithm
    assert run.own["down/s"].grad.tolist() == [[3.0, 1.5, 1.5]] and run.own["up/s"].grad.tolist() == [[5.25]]
    assert run.own["threshold"].grad.item() == pytest.approx(1.5 * 1.2 * 1.2)
    assert run.whole.grad is None


@pytest.mark.parametrize("shape", [(3, 4), (5, 2)])
def test_the_factors_gradients_are_the_slopes_of_what_the_delta_does(shape):
    method = JumpLora(rank=2, begin_at=0.1, end_at=0.9)
    run = begun(method, draw(shape[0], 2, seed=1).float(), draw(2, shape[1], seed=2).float(), 0.5, step=6)
    method.after_step(run)
    up, down, wanted, share = run.own["up/s"], run.own["down/s"], draw(*shape, seed=3).float(), method.share(6, 10)
    product = up @ down
    made = 16 * ((1 - share) * product + share * torch.where(product.abs() > 0.5, product, 0))
    slopes = torch.autograd.grad((made - wanted).square().sum(), [up, down])
    (run.whole - wanted).square().sum().backward()
    method.gradients(run)
    assert all(torch.allclose(one.grad, slope, rtol=1e-4) for one, slope in zip((up, down), slopes, strict=True))


def test_the_threshold_leaves_as_many_entries_of_all_layers_as_asked_for_and_all_where_there_are_fewer():
    products = {"one": torch.tensor([[1.0, -8.0], [3.0, 4.0]]), "two": torch.tensor([[5.0, -6.0]])}
    found = threshold(products, 2)
    assert found.item() == 5.0 and sum(int((product.abs() > found).sum()) for product in products.values()) == 2
    assert threshold(products, 9).item() < 1e-30  # small layers have fewer entries than their factors have


@pytest.mark.parametrize("steps", [1, 2, 3, 10])
def test_the_threshold_is_set_and_the_end_is_sparse_however_few_steps_there_are(steps):
    method = JumpLora(rank=1)
    run = begun(method, draw(12, 1, seed=1).float(), draw(1, 12, seed=2).float(), 0.009, steps=steps)
    for run.step in range(1, steps + 1):
        method.after_step(run)
    assert int((run.whole != 0).sum()) == 24 and run.report == {"jump_lora": {"entries_left": 24 / 144}}


def test_a_run_goes_on_from_a_checkpoint_with_its_own_threshold_and_share():
    method = JumpLora(rank=1, begin_at=0.2, end_at=0.8)
    straight = begun(method, draw(6, 1, seed=1).float(), draw(1, 6, seed=2).float(), 0.1)
    for straight.step in range(1, 6):
        method.after_step(straight)
    continued = begun(method, straight.own["up/s"].detach(), straight.own["down/s"].detach(), 0.1, step=5)
    with torch.no_grad():
        continued.own["threshold"].copy_(straight.own["threshold"])
    for run in (straight, continued):
        run.step = 6
        method.after_step(run)
    assert torch.equal(straight.whole, continued.whole) and 0 < method.share(6, 10) < 1


def test_what_was_there_before_stays_below_the_sparse_delta():
    method, before = JumpLora(rank=1), draw(3, 4).float()
    run = run_of((3, 4), before=before)
    method.begin(run)
    method.after_step(run)
    assert torch.equal(run.whole, before)


def test_a_method_that_sets_the_factors_is_refused_beside_it():
    run = run_of()
    run.trainable["s"].b.mul_(2)
    with refused("methods-disagree", "jump-lora"):
        JumpLora().begin(run)


def test_an_order_of_shares_that_is_none_is_refused():
    with refused("option-out-of-range", "begin_at=0.8", "end_at=0.8"):
        JumpLora(begin_at=0.8)


def test_trainings_end_sparse_alone_and_beside_a_penalty(model_folder, tasks, tmp_path):
    for method in ("jump-lora", "ella+jump-lora"):
        package = tmp_path / method
        chosen = {"method": method, "max_steps": 5, "method_options": {"rank": "2"}}
        for number, name in enumerate(("first", "second")):
            folder = train(model_folder("llama"), tasks[name], package, **chosen)
            deltas = [factor.delta() for factor in folder.factors().values()]
            left = sum(int((delta != 0).sum()) for delta in deltas) / sum(delta.numel() for delta in deltas)
            assert 0 < left < 0.6 and folder.manifest.scores["jump_lora"] == {"entries_left": pytest.approx(left)}
            active = number and method == "ella+jump-lora"
            assert bool(folder.manifest.scores["last_step"].get("penalty/ella")) == bool(active)


def test_the_threshold_is_one_for_all_layers():
    method, run = JumpLora(rank=1, begin_at=0.0, end_at=1.0), run_of((12, 12), steps=1)
    large = run_of((12, 12))
    run.trainable["t"] = large.trainable["s"]
    method.begin(run)
    with torch.no_grad():
        for site, size in (("s", 1.0), ("t", 9.0)):
            run.own[f"up/{site}"].copy_(size * draw(12, 1, seed=1).float())
            run.own[f"down/{site}"].copy_(draw(1, 12, seed=2).float())
    run.step = 1
    method.after_step(run)
    left = [int((whole != 0).sum()) for whole in (run.whole, large.whole)]
    assert (
        abs(sum(left) - 2 * (12 + 12)) <= 1 and left[1] > left[0]
    )  # the one on the threshold may round to either side
