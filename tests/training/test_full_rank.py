"""Whole weights: a LoRA of full rank, one of whose factors is the matrix and the other the identity."""

from __future__ import annotations

import pytest
import torch
from other_models import through_bank, through_peft
from refusals import refused
from support import trainer_for

from clora_cli.base.progress import Silent
from clora_cli.recipes.running import _size
from clora_cli.training import train_task
from clora_cli.training.build import build
from clora_cli.training.describe import describe
from clora_cli.training.fit import encoded_rows, methods_of


def batch_of(plan, built):
    return next(iter(trainer_for(plan, built).get_train_dataloader()))


@pytest.mark.parametrize("family", ["llama", "t5", "gpt2"])
def test_a_step_is_the_step_of_the_weights_themselves(plan_for, backbone, family):
    """AdamW's first step moves each entry by the learning rate against its own gradient, of whatever size; the smallest are rounding."""
    plan = plan_for(family=family, method="per-task-ft", max_steps=1, lr=0.01, schedule="constant", max_grad_norm=0.0)
    batch = batch_of(plan, build(plan))
    base = backbone(family).model
    folder, _ = train_task(plan)
    weights = {site: base.get_submodule(site).weight.requires_grad_(True) for site in folder.factors()}
    loss = base(**{name: batch[name] for name in ("input_ids", "attention_mask", "labels")}).loss
    slopes = dict(zip(weights, torch.autograd.grad(loss, list(weights.values())), strict=True))
    for site, factor in folder.factors().items():
        slope = slopes[site].mT if family == "gpt2" else slopes[site]
        delta, felt = factor.delta(), slope.abs() > 1e-5
        assert factor.scaling == 1 and felt.float().mean() > 0.5
        assert torch.allclose(delta[felt], -0.01 * slope[felt].sign(), rtol=2e-2), site
        assert torch.linalg.matrix_rank(delta) > 8  # more than --rank holds
    weights[next(iter(weights))].requires_grad_(False)


@pytest.mark.parametrize("method", ["seq-ft", "seq-ft+ewc", "lwf+seq-ft"])
def test_a_task_goes_on_from_the_last_one_s_weights_alone_or_beside_another_method(plan_for, method):
    first, _ = train_task(plan_for(method=method))
    second, _ = train_task(plan_for("second", method=method, lr=1e-12))
    third, _ = train_task(plan_for("third", method=method))
    for site, factor in first.factors().items():
        assert float(factor.delta().abs().max()) > 0.01
        assert torch.allclose(second.factors()[site].delta(), factor.delta(), atol=1e-6)
        later = third.factors()[site]
        fixed = later.a if later.shape[1] <= later.shape[0] else later.b
        assert torch.equal(fixed, torch.eye(len(fixed))) and not torch.allclose(
            later.delta(), factor.delta(), atol=1e-3
        )


def test_peft_loads_what_was_trained(plan_for, backbone):
    folder, _ = train_task(plan_for(method="per-task-ft"))
    found = through_peft(backbone().model, folder.path)
    assert torch.allclose(found, through_bank(backbone().model, folder.path), atol=1e-4)
    assert not torch.allclose(found, through_bank(backbone().model), atol=1e-2)


def test_all_linear_layers_are_trained_and_counted_whole(plan_for, backbone):
    plan = plan_for(method="per-task-ft", lr=None)
    told = describe(plan)
    folder, _ = train_task(plan)
    factors = folder.factors()
    assert {site.rpartition(".")[2] for site in factors} >= {"q_proj", "o_proj", "up_proj", "down_proj"}
    numbers = sum(factor.shape[0] * factor.shape[1] for factor in factors.values())
    assert told.trainable == numbers == _size(folder.path, "per-task-ft")[0]
    assert "full rank at" in told.text() and "LoRA of full rank" in (folder.path / "README.md").read_text()
    assert folder.manifest.raw["lora"] == {"form": "full-rank", "target_modules": ["all-linear"]}
    assert folder.manifest.training.raw["lr"] == pytest.approx(0.1 * plan_for(method="per-task", lr=None).options.lr)


def test_whole_weights_and_loras_do_not_go_on_from_one_another(plan_for, tmp_path):
    train_task(plan_for(method="seq-ft", package="whole"))
    train_task(plan_for(method="seq-lora", package="loras"))
    with refused("adapter-kinds-differ", tmp_path / "whole", "seq-lora", "a LoRA"):
        plan_for("second", method="seq-lora", package="whole")
    with refused("adapter-kinds-differ", tmp_path / "loras", "seq-ft", "full rank"):
        plan_for("second", method="seq-ft", package="loras")


def test_a_penalty_beside_jump_lora_leaves_no_gradient_at_the_identity(plan_for):
    train_task(plan_for(method="ella+jump-lora"))
    plan = plan_for("second", method="ella+jump-lora")
    built = build(plan)
    moments = methods_of(plan, built, encoded_rows(plan, built))
    moments.begin(None, Silent())
    for factor in built.trainable.values():
        with torch.no_grad():
            (factor.b if factor.b.requires_grad else factor.a).normal_()
    moments.gradients(1.0)
    assert any(own.grad is not None for run in moments._runs.values() for own in run.own.values())
    assert all(side.grad is None for factor in built.trainable.values() for side in (factor.a, factor.b))
